"""Where the running system is: `--dev FILE`, TIDELOG_DEV, the settings, or the data directory."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tidelog.cli.output import DATA_DEFAULT
from tidelog.embedded.data_dir import STARTING_NAME
from tidelog.errors import ConfigurationError
from tidelog.settings import PREFIX, load_settings

_CONNECTING = ("KAFKA_BOOTSTRAP_SERVERS", "POSTGRES_DSN", "REGISTRY_URL", "QUERY_SERVICE_URL")


@dataclass(frozen=True, kw_only=True)
class System:
    """The addresses of a running system; None for a part that it has not."""

    kafka_bootstrap_servers: str
    registry_url: str | None
    postgres_dsn: str
    gateway_url: str | None
    query_url: str | None
    topic_prefix: str


def find_system(dev: Path | None = None) -> System:
    """The system that a command is meant for; raises ConfigurationError if dev.json is no good."""
    file = dev_file(dev) or _starting_file()
    if file is not None:
        return _from_dev(file)
    settings = load_settings()
    return System(
        kafka_bootstrap_servers=settings.kafka_bootstrap_servers,
        registry_url=settings.registry_url,
        postgres_dsn=settings.postgres_dsn,
        gateway_url=None,
        query_url=settings.query_service_url,
        topic_prefix=settings.topic_prefix,
    )


def dev_file(dev: Path | None = None) -> Path | None:
    """The dev.json to go by; None where settings say where the system is."""
    given = dev or os.environ.get("TIDELOG_DEV")
    if given:
        return Path(given)
    if _is_told_by_settings():
        return None
    file = _data_folder() / "dev.json"
    return file if file.exists() else None


def _starting_file() -> Path | None:
    """What stands in for dev.json while a stack starts; None where none does."""
    file = _data_folder() / STARTING_NAME
    return None if _is_told_by_settings() or not file.exists() else file


def _is_told_by_settings() -> bool:
    return any(os.environ.get(PREFIX + name) for name in _CONNECTING)


def _data_folder() -> Path:
    return Path(os.environ.get("TIDELOG_DATA") or DATA_DEFAULT)


def read_dev(file: Path) -> dict[str, Any]:
    """The content of dev.json."""
    if not file.exists():
        raise ConfigurationError(f"{file} is not there; start the stack with: ./dev up")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigurationError(f"{file} is no dev.json: {error}") from error
    if not isinstance(content, dict) or "kafka" not in content:
        raise ConfigurationError(f"{file} is no dev.json: it names no kafka")
    return content


def _from_dev(file: Path) -> System:
    content = read_dev(file)
    return System(
        kafka_bootstrap_servers=content["kafka"]["bootstrap_servers"],
        registry_url=_url(content, "registry"),
        postgres_dsn=content["postgres"]["dsn"],
        gateway_url=_url(content, "gateway"),
        query_url=_url(content, "query"),
        topic_prefix=load_settings().topic_prefix,
    )


def _url(content: Mapping[str, Any], key: str) -> str | None:
    part = content.get(key)
    return None if part is None else str(part["url"])
