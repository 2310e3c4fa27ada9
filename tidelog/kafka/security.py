"""What every client of Kafka is told besides its own options: where, as whom, and whom to trust.

Every Producer, Consumer and AdminClient begins with `connection(servers)`, the clients in Python
(the live windows, the markers) with `python_connection()`. There is no other place.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from confluent_kafka import KafkaError

from tidelog.logging import get_logger
from tidelog.security import Security, load_security, variable

TELL_EVERY_S: Final = 30.0
"""A client that is refused tries again within a second; the log need not."""

log = get_logger("tidelog.kafka")

Tell = Callable[[str], None]


def connection(bootstrap_servers: str, tell: Tell | None = None) -> dict[str, Any]:
    """The first options of a client of librdkafka.

    `tell` hears why the brokers refuse us, in a sentence that names the setting; without one it is
    logged. Raises ConfigurationError where a setting is no good.
    """
    security = load_security()
    options: dict[str, Any] = {
        "bootstrap.servers": bootstrap_servers,
        # Connected to every broker at once. Otherwise a first request that comes while the library
        # leaves the bootstrap address waits for a timer of its own: half a second for the writer
        # of a transaction that takes over, one to three for a question.
        "enable.sparse.connections": False,
    }
    if security.kafka_security_protocol == "PLAINTEXT":
        return options
    return options | _identity(security) | {"error_cb": _listener(tell or _Log().tell)}


def python_connection() -> dict[str, Any]:
    """The same for a client in Python: aiokafka's and kafka-python's names are the same."""
    security = load_security()
    options: dict[str, Any] = {"security_protocol": security.kafka_security_protocol}
    if security.kafka_encrypted:
        options["ssl_context"] = security.kafka_context()
    if security.kafka_sasl:
        options |= {
            "sasl_mechanism": security.kafka_sasl_mechanism,
            "sasl_plain_username": security.kafka_sasl_username,
            "sasl_plain_password": security.secret("kafka_sasl_password"),
        }
    return options


def refusal(error: KafkaError) -> str | None:
    """Why the brokers refuse us, naming the setting; None for any other trouble."""
    if error.code() == KafkaError._AUTHENTICATION:
        return (
            f"Kafka refuses our user: look at {variable('kafka_sasl_username')}, "
            f"{variable('kafka_sasl_password')} (or …_FILE) and {variable('kafka_sasl_mechanism')} "
            f"({error.str()})"
        )
    if error.code() != KafkaError._SSL:
        return None
    if "certificate verify failed" in error.str() or "broker certificate" in error.str():
        return (
            f"Kafka's certificate is not signed by whom {variable('kafka_ssl_ca_file')} names, "
            f"or is for another host ({error.str()})"
        )
    return (
        f"Kafka and we do not agree on TLS: look at {variable('kafka_security_protocol')}, "
        f"{variable('kafka_ssl_certificate_file')} and {variable('kafka_ssl_key_file')} "
        f"({error.str()})"
    )


def hint() -> str:
    """What to look at when brokers hang up without a word; it begins with a space."""
    protocol = load_security().kafka_security_protocol
    said = f" {variable('kafka_security_protocol')} is {protocol}: is it what the brokers speak?"
    if protocol.endswith("SSL"):
        said += f" Do they accept our {variable('kafka_ssl_certificate_file')}?"
    return said


def _identity(security: Security) -> dict[str, str]:
    options = {"security.protocol": security.kafka_security_protocol}
    if security.kafka_sasl:
        options |= {
            "sasl.mechanism": security.kafka_sasl_mechanism,
            "sasl.username": security.kafka_sasl_username,
            "sasl.password": security.secret("kafka_sasl_password"),
        }
    if security.kafka_encrypted:
        options |= {
            "ssl.ca.location": security.kafka_ssl_ca_file,
            "ssl.certificate.location": security.kafka_ssl_certificate_file,
            "ssl.key.location": security.kafka_ssl_key_file,
            "ssl.key.password": security.secret("kafka_ssl_key_password"),
            # The name in the broker's certificate must be the one that we called.
            "ssl.endpoint.identification.algorithm": "https",
        }
    return {name: value for name, value in options.items() if value}


def _listener(tell: Tell) -> Callable[[KafkaError], None]:
    def hear(error: KafkaError) -> None:
        sentence = refusal(error)
        if sentence is not None:
            tell(sentence)

    return hear


class _Log:
    """Says a refusal now and then, as long as it lasts."""

    def __init__(self) -> None:
        self._told_at = -TELL_EVERY_S

    def tell(self, sentence: str) -> None:
        now = time.monotonic()
        if now - self._told_at >= TELL_EVERY_S:
            self._told_at = now
            log.error("kafka.refused", reason=sentence)
