"""Every endpoint of the registry: a table of method, path and handler, then the handlers.

A handler takes the service and the call and returns what becomes JSON; it may block, for it
runs in a thread. Refusals are raised with Confluent's error code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from tidelog.registry import decisions
from tidelog.registry.canonical import guid
from tidelog.registry.errors import ErrorCode, RegistryRefusal
from tidelog.registry.log import LogRecord
from tidelog.registry.requests import Call
from tidelog.registry.service import RegistryService
from tidelog.registry.store import SchemaStore, Version

Handler: TypeAlias = Callable[[RegistryService, Call], object]
ID_MAX = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One method on one path; `members` are what its body may hold."""

    method: str
    path: str
    handler: Handler
    members: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class PlainText:
    """An answer that is a schema's own text, not JSON made here."""

    text: str


def root(_: RegistryService, __: Call) -> object:
    """Nothing; clients ask it to see whether the registry is there."""
    return {}


def list_subjects(service: RegistryService, call: Call) -> object:
    """The names of the subjects."""
    prefix = call.query.get("subjectPrefix", "")
    names = service.store.names(deleted=call.flag("deleted"))
    return [name for name in names if name.startswith(prefix)]


def list_versions(service: RegistryService, call: Call) -> object:
    """The version numbers of a subject."""
    subject = _subject(call)
    versions = service.store.versions(subject, deleted=call.flag("deleted"))
    if not versions:
        raise decisions.no_subject(subject)
    return [version.version for version in versions]


def get_version(service: RegistryService, call: Call) -> object:
    """One version with its schema."""
    store = service.store
    return _described(store, _version(store, call))


def get_version_text(service: RegistryService, call: Call) -> object:
    """The schema of one version as its own text."""
    store = service.store
    return PlainText(store.texts[_version(store, call).schema_id])


def referenced_by(service: RegistryService, call: Call) -> object:
    """No schema refers to another: references are not supported."""
    _version(service.store, call)
    return []


def register(service: RegistryService, call: Call) -> object:
    """Register a schema under a subject."""
    subject, text = _subject(call), _schema(call)
    if call.body.get("id") not in (None, -1) or call.body.get("version") not in (
        None,
        -1,
    ):
        raise RegistryRefusal(
            ErrorCode.OPERATION_NOT_PERMITTED,
            f"Subject '{subject}' is not in import mode: leave out id and version",
        )
    version = service.register(subject, text, normalize=call.flag("normalize"))
    stored = service.text(version.schema_id)
    return {"id": version.schema_id, "version": version.version, "guid": guid(stored)}


def lookup(service: RegistryService, call: Call) -> object:
    """The version of a subject that has this schema."""
    subject, text = _subject(call), _schema(call)
    version = service.lookup(
        subject, text, normalize=call.flag("normalize"), deleted=call.flag("deleted")
    )
    return _described(service.store, version)


def delete_subject(service: RegistryService, call: Call) -> object:
    """Delete all versions of a subject."""
    subject, permanent = _subject(call), call.flag("permanent")
    gone: list[int] = []

    def decide(store: SchemaStore) -> list[LogRecord]:
        records = decisions.delete_subject(store, subject, permanent=permanent)
        found = store.versions(subject, deleted=permanent)
        gone[:] = [version.version for version in found]
        return records

    service.write(decide)
    return gone


def delete_version(service: RegistryService, call: Call) -> object:
    """Delete one version."""
    subject, permanent, wanted = (
        _subject(call),
        call.flag("permanent"),
        call.path["version"],
    )
    gone: list[int] = []

    def decide(store: SchemaStore) -> list[LogRecord]:
        records = decisions.delete_version(store, subject, wanted, permanent=permanent)
        gone[:] = [decisions.version_of(store, subject, wanted, deleted=True).version]
        return records

    service.write(decide)
    return gone[0]


def get_schema(service: RegistryService, call: Call) -> object:
    """The schema of an id."""
    text = service.text(_id(call))
    return {"schema": text, "guid": guid(text)}


def get_schema_text(service: RegistryService, call: Call) -> object:
    """The schema of an id as its own text."""
    return PlainText(service.text(_id(call)))


def get_schema_versions(service: RegistryService, call: Call) -> object:
    """The versions that use an id."""
    return [
        {"subject": version.subject, "version": version.version} for version in _uses(service, call)
    ]


def get_schema_subjects(service: RegistryService, call: Call) -> object:
    """The subjects that use an id."""
    return list(dict.fromkeys(version.subject for version in _uses(service, call)))


def get_schema_by_guid(service: RegistryService, call: Call) -> object:
    """The schema of a GUID."""
    wanted = call.path["guid"].lower()
    for text in service.store.ids:
        if guid(text) == wanted:
            return {"schema": text, "guid": wanted}
    raise decisions.no_schema()


def schema_types(_: RegistryService, __: Call) -> object:
    """The kinds of schema that are taken."""
    return ["AVRO"]


def check_version(service: RegistryService, call: Call) -> object:
    """Whether a schema may follow one version."""
    return _compatibility(service, call, call.path["version"])


def check_all(service: RegistryService, call: Call) -> object:
    """Whether a schema may be the next version."""
    return _compatibility(service, call, None)


def get_global_level(service: RegistryService, _: Call) -> object:
    """The level of all."""
    level = service.store.levels.get(None, decisions.DEFAULT_LEVEL)
    return {"compatibilityLevel": level}


def get_level(service: RegistryService, call: Call) -> object:
    """The level of a subject."""
    subject, store = _subject(call), service.store
    if subject not in store.levels and not call.flag("defaultToGlobal"):
        raise decisions.no_level(subject)
    return {"compatibilityLevel": decisions.level_of(store, subject)}


def put_level(service: RegistryService, call: Call) -> object:
    """Set the level of a subject or of all."""
    subject, level = _subject_or_all(call), _word(call, "compatibility")
    service.write(lambda store: decisions.set_level(store, subject, level))
    return {"compatibility": level}


def delete_level(service: RegistryService, call: Call) -> object:
    """Remove the level of a subject or of all."""
    subject = _subject_or_all(call)
    before = service.store.levels.get(subject, decisions.DEFAULT_LEVEL)
    service.write(lambda store: decisions.delete_level(store, subject))
    return {"compatibilityLevel": before}


def get_global_mode(service: RegistryService, _: Call) -> object:
    """The mode of all."""
    return {"mode": decisions.mode_of(service.store, None)}


def get_mode(service: RegistryService, call: Call) -> object:
    """The mode of a subject."""
    subject, store = _subject(call), service.store
    if subject not in store.modes and not call.flag("defaultToGlobal"):
        raise decisions.no_mode(subject)
    return {"mode": decisions.mode_of(store, subject)}


def put_mode(service: RegistryService, call: Call) -> object:
    """Set the mode of a subject or of all."""
    subject, mode = _subject_or_all(call), _word(call, "mode")
    service.write(lambda store: decisions.set_mode(store, subject, mode))
    return {"mode": mode}


def delete_mode(service: RegistryService, call: Call) -> object:
    """Remove the mode of a subject or of all."""
    subject = _subject_or_all(call)
    before = decisions.mode_of(service.store, subject)
    service.write(lambda store: decisions.delete_mode(store, subject))
    return {"mode": before}


_SCHEMA = frozenset(
    {
        "schema",
        "schemaType",
        "references",
        "metadata",
        "ruleSet",
        "id",
        "version",
        "guid",
    }
    | {"subject", "schemaTags", "deleted"}
)
_LEVEL = frozenset({"compatibility", "compatibilityLevel"})
_MODE = frozenset({"mode"})
_S, _V = "/subjects/{subject}", "/subjects/{subject}/versions/{version}"

ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint("GET", "/", root),
    Endpoint("GET", "/subjects", list_subjects),
    Endpoint("POST", _S, lookup, _SCHEMA),
    Endpoint("DELETE", _S, delete_subject),
    Endpoint("GET", f"{_S}/versions", list_versions),
    Endpoint("POST", f"{_S}/versions", register, _SCHEMA),
    Endpoint("GET", _V, get_version),
    Endpoint("DELETE", _V, delete_version),
    Endpoint("GET", f"{_V}/schema", get_version_text),
    Endpoint("GET", f"{_V}/referencedby", referenced_by),
    Endpoint("GET", "/schemas/types", schema_types),
    Endpoint("GET", "/schemas/ids/{id}", get_schema),
    Endpoint("GET", "/schemas/ids/{id}/schema", get_schema_text),
    Endpoint("GET", "/schemas/ids/{id}/versions", get_schema_versions),
    Endpoint("GET", "/schemas/ids/{id}/subjects", get_schema_subjects),
    Endpoint("GET", "/schemas/guids/{guid}", get_schema_by_guid),
    Endpoint("POST", f"/compatibility{_S}/versions", check_all, _SCHEMA),
    Endpoint("POST", f"/compatibility{_V}", check_version, _SCHEMA),
    Endpoint("GET", "/config", get_global_level),
    Endpoint("PUT", "/config", put_level, _LEVEL),
    Endpoint("DELETE", "/config", delete_level),
    Endpoint("GET", "/config/{subject}", get_level),
    Endpoint("PUT", "/config/{subject}", put_level, _LEVEL),
    Endpoint("DELETE", "/config/{subject}", delete_level),
    Endpoint("GET", "/mode", get_global_mode),
    Endpoint("PUT", "/mode", put_mode, _MODE),
    Endpoint("GET", "/mode/{subject}", get_mode),
    Endpoint("PUT", "/mode/{subject}", put_mode, _MODE),
    Endpoint("DELETE", "/mode/{subject}", delete_mode),
)


def _subject(call: Call) -> str:
    return decisions.valid_subject(call.path["subject"])


def _subject_or_all(call: Call) -> str | None:
    return _subject(call) if "subject" in call.path else None


def _version(store: SchemaStore, call: Call) -> Version:
    deleted = call.flag("deleted")
    return decisions.version_of(store, _subject(call), call.path["version"], deleted=deleted)


def _id(call: Call) -> int:
    raw = call.path["id"]
    number = int(raw) if raw.isascii() and raw.isdigit() and len(raw) <= 10 else -1
    if not 0 <= number <= ID_MAX:
        raise RegistryRefusal(ErrorCode.NOT_FOUND, "A schema id is a whole number")
    return number


def _uses(service: RegistryService, call: Call) -> list[Version]:
    schema_id = _id(call)
    service.text(schema_id)
    return service.store.uses(schema_id, deleted=call.flag("deleted"))


def _schema(call: Call) -> str:
    """The schema of the body; what is not supported yet is refused, never ignored."""
    if call.body.get("schemaType") not in (None, "AVRO"):
        raise RegistryRefusal(ErrorCode.INVALID_SCHEMA, "Invalid schema type; known: AVRO")
    for name in ("references", "metadata", "ruleSet", "schemaTags"):
        if call.body.get(name):
            raise RegistryRefusal(ErrorCode.INVALID_SCHEMA, f"'{name}' is not supported")
    return call.text("schema")


def _word(call: Call, name: str) -> str:
    """A level or a mode, in capitals; a value that is none is refused where it is decided."""
    return call.text(name).upper()


def _described(store: SchemaStore, version: Version) -> dict[str, object]:
    text = store.texts[version.schema_id]
    return {
        "subject": version.subject,
        "version": version.version,
        "id": version.schema_id,
        "guid": guid(text),
        "schema": text,
    }


def _compatibility(service: RegistryService, call: Call, wanted: str | None) -> object:
    messages = service.check(_subject(call), _schema(call), wanted)
    answer: dict[str, object] = {"is_compatible": not messages}
    return answer | {"messages": messages} if call.flag("verbose") else answer
