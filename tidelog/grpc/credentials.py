"""Who our processes are to one another over gRPC: every port and every channel is opened here.

Where certificates are set both sides show one and both look at the other's: what is not signed by
our authority, or speaks in the clear, is refused. Where none are set both speak in the clear.
"""

from __future__ import annotations

from collections.abc import Sequence

import grpc
import grpc.aio

from tidelog.errors import ConfigurationError
from tidelog.security import load_security, variable

CA_FILE, CERTIFICATE_FILE, KEY_FILE = (
    variable(f"grpc_ssl_{part}_file") for part in ("ca", "certificate", "key")
)
ADDRESS = variable("grpc_address")

Options = Sequence[tuple[str, int | str]]


def open_channel(address: str, options: Options) -> grpc.aio.Channel:
    """A channel to another process of ours at host:port.

    The host must be in the certificate of whoever answers there. Raises ConfigurationError where a
    setting is no good.
    """
    identity = load_security().grpc_identity()
    if identity is None:
        return grpc.aio.insecure_channel(address, options=options)
    credentials = grpc.ssl_channel_credentials(
        root_certificates=identity.authority,
        private_key=identity.key,
        certificate_chain=identity.certificate,
    )
    return grpc.aio.secure_channel(address, credentials, options=options)


def open_port(server: grpc.aio.Server, authority: str) -> tuple[int, bool]:
    """Have the server listen at host:port; the port, and whether it lets in only whom we know.

    Raises ConfigurationError where a setting is no good or the port cannot be had.
    """
    identity = load_security().grpc_identity()
    try:
        if identity is None:
            return server.add_insecure_port(authority), False
        credentials = grpc.ssl_server_credentials(
            [(identity.key, identity.certificate)],
            root_certificates=identity.authority,
            require_client_auth=True,
        )
        return server.add_secure_port(authority, credentials), True
    except RuntimeError as error:
        raise ConfigurationError(
            f"{variable('grpc_port')}: {authority} cannot be had"
            + ("" if identity is None else f", or not with the key in {KEY_FILE}")
        ) from error


def refusal(error: grpc.aio.AioRpcError) -> str | None:
    """Why one side does not trust the other, naming the setting; None for any other trouble.

    The words are those of gRPC: it has no code for this.
    """
    if error.code() is not grpc.StatusCode.UNAVAILABLE:
        return None
    details = error.details() or ""
    if "CERTIFICATE_VERIFY_FAILED" in details:
        return f"its certificate is not signed by whom {CA_FILE} names"
    if "Hostname Verification" in details:
        return f"its certificate is not for the name that it announces by {ADDRESS}"
    if "handshake" in details.lower():
        return (
            f"we do not agree on TLS: are {CA_FILE}, {CERTIFICATE_FILE} and {KEY_FILE} set on both "
            "sides?"
        )
    if "failed to connect" in details and "Socket closed" in details:
        return f"it hangs up on us: does it want another certificate than {CERTIFICATE_FILE} names?"
    return None
