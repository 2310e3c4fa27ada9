"""How a process shows who it is, and whom it trusts: TLS, passwords and certificates.

They belong to the process, like its place in the network: whoever makes a client reads them here,
and nobody passes secrets on. A secret is given by a file (as Kubernetes and Docker mount them) or
by the environment, is read anew for each client, and is in no log line and no `repr`.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final, NamedTuple

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from tidelog.errors import ConfigurationError

ENVIRONMENT_PREFIX: Final = "TIDELOG_"
SECRET_BYTES_MAX: Final = 64 * 1024
PEM_BYTES_MAX: Final = 1024 * 1024
"""Of one file of certificates: a system's whole list of authorities fits."""

NO_SECRET: Final = SecretStr("")


GRPC_FILES: Final = ("grpc_ssl_ca_file", "grpc_ssl_certificate_file", "grpc_ssl_key_file")


class Identity(NamedTuple):
    """What both sides of a connection show and trust, in PEM. Its `repr` tells nothing."""

    authority: bytes
    certificate: bytes
    key: bytes

    def __repr__(self) -> str:
        return "Identity()"


class Security(BaseSettings):
    """Identity and trust. A field `…_file` is a path; empty means: not given."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX, frozen=True, hide_input_in_errors=True
    )

    kafka_security_protocol: str = Field(
        default="PLAINTEXT", pattern=r"^(PLAINTEXT|SSL|SASL_PLAINTEXT|SASL_SSL)$"
    )
    kafka_sasl_mechanism: str = Field(
        default="SCRAM-SHA-512", pattern=r"^(SCRAM-SHA-512|SCRAM-SHA-256|PLAIN)$"
    )
    kafka_sasl_username: str = ""
    kafka_sasl_password: SecretStr = NO_SECRET
    kafka_sasl_password_file: str = ""
    kafka_ssl_ca_file: str = ""
    kafka_ssl_certificate_file: str = ""
    kafka_ssl_key_file: str = ""
    kafka_ssl_key_password: SecretStr = NO_SECRET
    kafka_ssl_key_password_file: str = ""

    postgres_password_file: str = ""
    postgres_ssl_mode: str = Field(
        default="", pattern=r"^(|disable|allow|prefer|require|verify-ca|verify-full)$"
    )
    postgres_ssl_ca_file: str = ""
    postgres_ssl_certificate_file: str = ""
    postgres_ssl_key_file: str = ""

    registry_username: str = ""
    registry_password: SecretStr = NO_SECRET
    registry_password_file: str = ""
    registry_ca_file: str = ""

    grpc_ssl_ca_file: str = ""
    grpc_ssl_certificate_file: str = ""
    grpc_ssl_key_file: str = ""

    def secret(self, name: str) -> str:
        """The secret of that name, from its file or from itself; empty where neither is given."""
        given: SecretStr = getattr(self, name)
        file = self._path(f"{name}_file")
        if file is None:
            return given.get_secret_value()
        if given.get_secret_value():
            raise ConfigurationError(
                f"{variable(name)} and {variable(name)}_FILE are both given; keep one of them"
            )
        return _read(file, f"{name}_file")

    @property
    def kafka_encrypted(self) -> bool:
        """Whether Kafka is spoken to over TLS."""
        return self.kafka_security_protocol.endswith("SSL")

    @property
    def kafka_sasl(self) -> bool:
        """Whether Kafka is told a user and a password."""
        return self.kafka_security_protocol.startswith("SASL")

    def kafka_context(self) -> ssl.SSLContext:
        """TLS towards Kafka, for the clients in Python."""
        context = _trusting(self, "kafka_ssl_ca_file")
        _present(self, context, "kafka_ssl", self.secret("kafka_ssl_key_password"))
        return context

    def registry_context(self) -> ssl.SSLContext:
        """TLS towards the schema registry."""
        return _trusting(self, "registry_ca_file")

    def grpc_identity(self) -> Identity | None:
        """What our processes show one another over gRPC; None: they speak in the clear.

        Raises ConfigurationError where one of the three files is not given or no good.
        """
        files = {name: self._path(name) for name in GRPC_FILES}
        given = [name for name, path in files.items() if path is not None]
        if not given:
            return None
        for name, path in files.items():
            if path is None:
                raise ConfigurationError(
                    f"{variable(name)} is empty, but {variable(given[0])} is given: between our "
                    "processes both sides show a certificate, which takes all three files"
                )
        context = _trusting(self, "grpc_ssl_ca_file")
        _present(self, context, "grpc_ssl", "")
        return Identity(*(_content(path, name) for name, path in files.items() if path is not None))

    def postgres_parameters(self) -> dict[str, str]:
        """What libpq is told beyond the DSN."""
        parameters = {
            "sslmode": self.postgres_ssl_mode,
            "sslrootcert": self.postgres_ssl_ca_file,
            "sslcert": self.postgres_ssl_certificate_file,
            "sslkey": self.postgres_ssl_key_file,
        }
        if self.postgres_ssl_ca_file and not self.postgres_ssl_mode:
            # Whoever names a certificate authority wants to know whom they speak to.
            parameters["sslmode"] = "verify-full"
        password = self._path("postgres_password_file")
        if password is not None:
            parameters["password"] = _read(password, "postgres_password_file")
        return {name: value for name, value in parameters.items() if value}

    def check(self) -> None:
        """Read every file once; ConfigurationError names the setting that is no good."""
        self._check_kafka()
        self._check_user("registry")
        if self.registry_ca_file:
            self.registry_context()
        self.grpc_identity()
        parameters = self.postgres_parameters()
        if parameters.keys() & {"sslrootcert", "sslcert", "sslkey"}:
            context = _trusting(self, "postgres_ssl_ca_file")
            _present(self, context, "postgres_ssl", "")

    def _check_kafka(self) -> None:
        if self.kafka_sasl:
            self._check_user("kafka_sasl")
            if not self.kafka_sasl_username:
                raise ConfigurationError(
                    f"{variable('kafka_security_protocol')} is {self.kafka_security_protocol}, "
                    f"but {variable('kafka_sasl_username')} is empty"
                )
        if self.kafka_encrypted:
            self.kafka_context()

    def _check_user(self, part: str) -> None:
        """A user has a password."""
        if getattr(self, f"{part}_username") and not self.secret(f"{part}_password"):
            raise ConfigurationError(
                f"{variable(f'{part}_username')} is given, but neither "
                f"{variable(f'{part}_password')} nor {variable(f'{part}_password')}_FILE"
            )

    def _path(self, name: str) -> Path | None:
        given: str = getattr(self, name)
        return Path(given) if given else None


def load_security() -> Security:
    """Read the environment; a malformed key raises ConfigurationError naming it."""
    try:
        return Security()
    except ValidationError as error:
        raise ConfigurationError(malformed(error)) from None


def malformed(error: ValidationError) -> str:
    """The first key that is no good and why, without its value."""
    first = error.errors(include_input=False)[0]
    key = variable("_".join(str(part) for part in first["loc"]))
    return f"{key}: {first['msg']}"


def variable(name: str) -> str:
    """The environment's name of a setting."""
    return ENVIRONMENT_PREFIX + name.upper()


def _read(file: Path, name: str) -> str:
    """A secret's file, without the line end that editors leave behind."""
    try:
        text = _content(file, name, SECRET_BYTES_MAX).decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{variable(name)}: {_why(error)}") from None
    if not text:
        raise ConfigurationError(f"{variable(name)}: the file is empty")
    return text


def _content(file: Path, name: str, bytes_max: int = PEM_BYTES_MAX) -> bytes:
    try:
        with file.open("rb") as opened:
            content = opened.read(bytes_max + 1)
    except OSError as error:
        raise ConfigurationError(f"{variable(name)}: {_why(error)}") from None
    if not content or len(content) > bytes_max:
        raise ConfigurationError(
            f"{variable(name)}: the file is empty, or longer than {bytes_max} bytes"
        )
    return content


def _trusting(security: Security, name: str) -> ssl.SSLContext:
    """A context that trusts the authorities of that file; without one, those of the system."""
    file: Path | None = security._path(name)
    try:
        return ssl.create_default_context(cafile=None if file is None else str(file))
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"{variable(name)}: no certificates: {_why(error)}") from None


def _present(security: Security, context: ssl.SSLContext, part: str, password: str) -> None:
    """Have the context show our certificate, where one is given."""
    certificate, key = f"{part}_certificate_file", f"{part}_key_file"
    paths = [security._path(certificate), security._path(key)]
    if paths == [None, None]:
        return
    for name, path in zip((certificate, key), paths, strict=True):
        if path is None:
            raise ConfigurationError(f"{variable(name)} is empty, but its counterpart is given")
        _read(path, name)
    try:
        # Without a password of its own the library would ask for one at the terminal.
        context.load_cert_chain(str(paths[0]), str(paths[1]), password=password.encode)
    except (OSError, ssl.SSLError, ValueError) as error:
        raise ConfigurationError(
            f"{variable(certificate)} and {variable(key)} are no pair that can be read with the "
            f"key's password: {_why(error)}"
        ) from None


def _why(error: Exception) -> str:
    """The reason alone: never a byte of what was read."""
    if isinstance(error, ssl.SSLError):
        return error.reason or "not readable as PEM"
    if isinstance(error, OSError):
        return error.strerror or "cannot be read"
    return "not UTF-8 text"
