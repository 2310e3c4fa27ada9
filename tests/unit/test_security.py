"""Identity and trust: what is no good is refused at the start and named; secrets stay secret."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from confluent_kafka import KafkaError

from tests.fixtures.certificates import Authority
from tidelog.errors import ConfigurationError
from tidelog.kafka.security import connection, python_connection, refusal
from tidelog.security import load_security
from tidelog.settings import load_settings, redacted

ROOT = Path(__file__).parent.parent.parent
CLIENTS = {"Producer", "Consumer", "AdminClient", "KafkaAdminClient", "AIOKafkaConsumer"}
# The embedded broker's probe asks that broker alone; the world in memory has no broker.
WITHOUT = {"tidelog/embedded/kafka.py"}


def given(patch: pytest.MonkeyPatch, **settings: object) -> None:
    for name, value in settings.items():
        patch.setenv(f"TIDELOG_{name.upper()}", str(value))


def test_nothing_is_said_of_security_where_nothing_is_set() -> None:
    said = {"bootstrap.servers": "host:9092", "enable.sparse.connections": False}
    assert connection("host:9092") == said
    assert python_connection() == {"security_protocol": "PLAINTEXT"}


def test_every_client_of_kafka_is_told_who_we_are() -> None:
    bare = []
    for package in ("tidelog", "projectors", "sagas", "command_service", "query_service"):
        for path in (ROOT / package).rglob("*.py"):
            tree = ast.parse(path.read_text())
            calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
            names = {
                func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "")
                for func in (call.func for call in calls)
            }
            name = path.relative_to(ROOT).as_posix()
            told = names & {"connection", "python_connection"}
            if names & CLIENTS and not told and name not in WITHOUT:
                bare.append(name)
    assert bare == []


def test_secrets_come_from_files_and_are_not_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text("s3cret\n")
    given(
        monkeypatch,
        kafka_security_protocol="SASL_PLAINTEXT",
        kafka_sasl_username="projectors",
        kafka_sasl_password_file=tmp_path / "password",
        registry_username="me",
        registry_password="s3cret",
        smtp_password="s3cret",
        postgres_dsn="postgresql://me:s3cret@host/db",
        postgres_password_file=tmp_path / "password",
    )
    settings = load_settings()
    assert connection("host:9092")["sasl.password"] == "s3cret"
    assert python_connection()["sasl_plain_password"] == "s3cret"
    assert "s3cret" not in repr(settings) + str(settings)
    assert "s3cret" in settings.postgres_dsn
    assert "s3cret" not in redacted(settings.postgres_dsn)


def test_a_secret_that_is_given_twice_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text("one")
    given(
        monkeypatch,
        kafka_security_protocol="SASL_SSL",
        kafka_sasl_username="me",
        kafka_sasl_password="other",
        kafka_sasl_password_file=tmp_path / "password",
    )
    with pytest.raises(ConfigurationError, match="TIDELOG_KAFKA_SASL_PASSWORD_FILE are both"):
        load_settings()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"kafka_security_protocol": "TLS"}, "TIDELOG_KAFKA_SECURITY_PROTOCOL"),
        ({"kafka_security_protocol": "SASL_SSL"}, "TIDELOG_KAFKA_SASL_USERNAME"),
        (
            {"kafka_security_protocol": "SASL_SSL", "kafka_sasl_username": "me"},
            "TIDELOG_KAFKA_SASL_PASSWORD",
        ),
        (
            {"kafka_security_protocol": "SSL", "kafka_ssl_ca_file": "/nowhere"},
            "TIDELOG_KAFKA_SSL_CA_FILE: .*No such file",
        ),
        (
            {"kafka_security_protocol": "SSL", "kafka_ssl_certificate_file": __file__},
            "TIDELOG_KAFKA_SSL_KEY_FILE is empty",
        ),
        (
            {
                "kafka_security_protocol": "SSL",
                "kafka_ssl_certificate_file": __file__,
                "kafka_ssl_key_file": __file__,
            },
            "TIDELOG_KAFKA_SSL_CERTIFICATE_FILE and TIDELOG_KAFKA_SSL_KEY_FILE are no pair",
        ),
        ({"postgres_ssl_ca_file": __file__}, "TIDELOG_POSTGRES_SSL_CA_FILE"),
        ({"postgres_password_file": "/nowhere"}, "TIDELOG_POSTGRES_PASSWORD_FILE: No such file"),
        ({"registry_ca_file": "/nowhere"}, "TIDELOG_REGISTRY_CA_FILE"),
        ({"registry_username": "me"}, "TIDELOG_REGISTRY_PASSWORD"),
        ({"grpc_ssl_ca_file": __file__}, "TIDELOG_GRPC_SSL_CERTIFICATE_FILE is empty"),
        ({"grpc_ssl_key_file": "/nowhere"}, "TIDELOG_GRPC_SSL_CA_FILE is empty"),
        (
            {
                "grpc_ssl_ca_file": "/nowhere",
                "grpc_ssl_certificate_file": __file__,
                "grpc_ssl_key_file": __file__,
            },
            "TIDELOG_GRPC_SSL_CA_FILE: .*No such file",
        ),
    ],
)
def test_what_cannot_work_is_refused_at_the_start_and_named(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], named: str
) -> None:
    given(monkeypatch, **settings)
    with pytest.raises(ConfigurationError, match=named):
        load_settings()


def test_a_key_is_opened_by_its_password_and_a_wrong_one_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pair = Authority(tmp_path).pair("client", key_password="opens")
    given(
        monkeypatch,
        kafka_security_protocol="SSL",
        kafka_ssl_certificate_file=pair.certificate,
        kafka_ssl_key_file=pair.key,
        kafka_ssl_key_password="opens",
    )
    load_settings()
    given(monkeypatch, kafka_ssl_key_password="s3cret")
    with pytest.raises(ConfigurationError, match="TIDELOG_KAFKA_SSL_KEY_FILE") as refused:
        load_settings()
    assert "s3cret" not in str(refused.value)


def test_the_identity_between_our_processes_is_whole_or_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert load_security().grpc_identity() is None
    authority = Authority(tmp_path)
    pair, other = authority.pair("instance"), authority.pair("other", key_password="s3cret")
    given(
        monkeypatch,
        grpc_ssl_ca_file=authority.certificate,
        grpc_ssl_certificate_file=pair.certificate,
        grpc_ssl_key_file=pair.key,
    )
    identity = load_security().grpc_identity()
    assert identity is not None
    assert identity.certificate == pair.certificate.read_bytes()
    assert "PRIVATE" not in repr(identity)
    given(monkeypatch, grpc_ssl_key_file=other.key)
    with pytest.raises(ConfigurationError, match="TIDELOG_GRPC_SSL_KEY_FILE are no pair"):
        load_settings()


def test_every_port_and_channel_of_grpc_is_opened_where_certificates_are_shown() -> None:
    makers = {
        "insecure_channel", "secure_channel", "add_insecure_port", "add_secure_port"
    }  # fmt: skip
    found = {
        path.relative_to(ROOT).as_posix()
        for package in ("tidelog", "command_service", "query_service", "gateway", "sagas")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in makers
    }
    assert found == {"tidelog/grpc/credentials.py"}


def test_a_certificate_authority_for_postgresql_is_meant_in_full(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given(monkeypatch, postgres_ssl_ca_file=Authority(tmp_path).certificate)
    assert load_security().postgres_parameters()["sslmode"] == "verify-full"
    assert "sslmode=verify-full" in load_settings().postgres_dsn
    given(monkeypatch, postgres_ssl_mode="verify-ca")
    assert load_security().postgres_parameters()["sslmode"] == "verify-ca"


@pytest.mark.parametrize(
    "dsn",
    [
        "host=h password=s3cret dbname=d",
        r"host=h password='s3c\' ret s3cret' dbname=d",
        "postgresql://host/db?password=s3cret&sslmode=require",
        "host=h sslpassword = s3cret",
    ],
)
def test_a_logged_dsn_of_any_form_holds_no_password(dsn: str) -> None:
    assert "s3cret" not in redacted(dsn)


def test_other_troubles_of_a_broker_are_no_refusal() -> None:
    assert refusal(KafkaError(KafkaError._ALL_BROKERS_DOWN)) is None
