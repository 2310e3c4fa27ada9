"""What the registry knows: a pure fold of the records of the topic `_schemas`.

Keys and values are JSON in the form of Confluent's registry (keytype SCHEMA, CONFIG, MODE,
DELETE_SUBJECT, NOOP). A store is a value: `after(records)` gives the next one, so readers
need no locks. Fold the compacted log or the whole one: the result is the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from tidelog.errors import LogError, LogFork
from tidelog.registry.log import LogRecord


@dataclass(frozen=True, kw_only=True, slots=True)
class Version:
    """A version of a subject; `deleted` means softly, so that its id is still served."""

    subject: str
    version: int
    schema_id: int
    deleted: bool = False


def schema_record(version: Version, text: str) -> LogRecord:
    """A version, live or softly deleted."""
    return LogRecord(
        key=_schema_key(version.subject, version.version),
        value=_json(
            {
                "subject": version.subject,
                "version": version.version,
                "id": version.schema_id,
                "schema": text,
                "deleted": version.deleted,
            }
        ),
    )


def schema_tombstone(subject: str, version: int) -> LogRecord:
    """A version deleted for good."""
    return LogRecord(key=_schema_key(subject, version), value=None)


def delete_subject_record(subject: str, version: int) -> LogRecord:
    """All versions up to this one are softly deleted."""
    key = {"keytype": "DELETE_SUBJECT", "subject": subject, "magic": 0}
    return LogRecord(key=_json(key), value=_json({"subject": subject, "version": version}))


def level_record(subject: str | None, level: str | None) -> LogRecord:
    """A compatibility level of a subject or (None) of all; None as level removes it."""
    key = {"keytype": "CONFIG", "subject": subject, "magic": 0}
    value = None if level is None else _json({"compatibilityLevel": level})
    return LogRecord(key=_json(key), value=value)


def mode_record(subject: str | None, mode: str | None) -> LogRecord:
    """A mode of a subject or (None) of all; None as mode removes it."""
    key = {"keytype": "MODE", "subject": subject, "magic": 0}
    value = None if mode is None else _json({"mode": mode})
    return LogRecord(key=_json(key), value=value)


def highest_id_record(highest_id: int) -> LogRecord:
    """Keeps the highest id ever given: compaction may forget its schema, ids are never reused."""
    key = {"keytype": "NOOP", "magic": 0}
    return LogRecord(key=_json(key), value=_json({"highestId": highest_id}))


def _schema_key(subject: str, version: int) -> bytes:
    key = {"keytype": "SCHEMA", "subject": subject, "version": version, "magic": 1}
    return _json(key)


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


@dataclass(frozen=True, kw_only=True, slots=True)
class SchemaStore:
    """Subjects, versions, ids, levels and modes at one point of the log."""

    texts: Mapping[int, str] = field(default_factory=dict)
    ids: Mapping[str, int] = field(default_factory=dict)
    subjects: Mapping[str, Mapping[int, Version]] = field(default_factory=dict)
    levels: Mapping[str | None, str] = field(default_factory=dict)
    modes: Mapping[str | None, str] = field(default_factory=dict)
    highest_id: int = 0

    def after(self, records: Iterable[LogRecord]) -> SchemaStore:
        """The store once these records are folded in."""
        draft = _Draft(self)
        for record in records:
            draft.apply(record)
        return draft.done()

    def versions(self, subject: str, *, deleted: bool = False) -> list[Version]:
        """The versions of a subject in ascending order, live ones or all."""
        found = self.subjects.get(subject, {})
        return [found[number] for number in sorted(found) if deleted or not found[number].deleted]

    def names(self, *, deleted: bool = False) -> list[str]:
        """The subjects that have a (live) version, sorted."""
        return sorted(name for name in self.subjects if self.versions(name, deleted=deleted))

    def uses(self, schema_id: int, *, deleted: bool = False) -> list[Version]:
        """Where a schema id is used."""
        return [
            version
            for subject in sorted(self.subjects)
            for version in self.versions(subject, deleted=deleted)
            if version.schema_id == schema_id
        ]


class _Draft:
    """A store being folded; the only place where anything is mutated."""

    def __init__(self, store: SchemaStore) -> None:
        self._texts = dict(store.texts)
        self._ids = dict(store.ids)
        self._subjects = dict(store.subjects)
        self._levels = dict(store.levels)
        self._modes = dict(store.modes)
        self._highest_id = store.highest_id

    def done(self) -> SchemaStore:
        return SchemaStore(
            texts=MappingProxyType(self._texts),
            ids=MappingProxyType(self._ids),
            subjects=MappingProxyType(self._subjects),
            levels=MappingProxyType(self._levels),
            modes=MappingProxyType(self._modes),
            highest_id=self._highest_id,
        )

    def apply(self, record: LogRecord) -> None:
        key = _object(record.key)
        value = None if record.value is None else _object(record.value)
        match key.get("keytype"):
            case "SCHEMA":
                self._schema(_text(key, "subject"), _number(key, "version"), value)
            case "DELETE_SUBJECT":
                self._delete_subject(value)
            case "CONFIG":
                self._put(self._levels, key, value, "compatibilityLevel")
            case "MODE":
                self._put(self._modes, key, value, "mode")
            case "NOOP":
                self._noop(value)
            case _:
                raise LogError(
                    "The registry's log holds a record of a kind that is not understood. "
                    "Let no other program write to it, or export its schemas and start afresh."
                )

    def _schema(self, subject: str, number: int, value: dict[str, object] | None) -> None:
        versions = dict(self._subjects.get(subject, {}))
        gone = versions.pop(number, None)
        if value is not None:
            schema_id, text = _number(value, "id"), _text(value, "schema")
            deleted = value.get("deleted", False) is True
            versions[number] = Version(
                subject=subject, version=number, schema_id=schema_id, deleted=deleted
            )
            self._learn(schema_id, text)
        self._subjects[subject] = versions
        if not versions:
            del self._subjects[subject]
        if value is None and gone is not None:
            self._forget(gone.schema_id)

    def _learn(self, schema_id: int, text: str) -> None:
        if self._texts.get(schema_id, text) != text:
            raise LogFork(
                f"The registry's log holds two schemas under the id {schema_id}. "
                "Two registries wrote to one topic: keep one, and register again."
            )
        self._texts[schema_id] = text
        self._ids.setdefault(text, schema_id)
        self._highest_id = max(self._highest_id, schema_id)

    def _forget(self, schema_id: int) -> None:
        used = any(
            version.schema_id == schema_id
            for versions in self._subjects.values()
            for version in versions.values()
        )
        if not used and self._ids.get(self._texts.pop(schema_id)) == schema_id:
            self._ids = {text: number for text, number in self._ids.items() if number != schema_id}

    def _delete_subject(self, value: dict[str, object] | None) -> None:
        if value is None:
            return
        subject, last = _text(value, "subject"), _number(value, "version")
        if subject in self._subjects:
            self._subjects[subject] = {
                number: replace(version, deleted=version.deleted or number <= last)
                for number, version in self._subjects[subject].items()
            }

    def _put(
        self,
        target: dict[str | None, str],
        key: dict[str, object],
        value: dict[str, object] | None,
        attribute: str,
    ) -> None:
        subject = None if key.get("subject") is None else _text(key, "subject")
        target.pop(subject, None)
        if value is not None:
            target[subject] = _text(value, attribute)

    def _noop(self, value: dict[str, object] | None) -> None:
        if value is not None and "highestId" in value:
            self._highest_id = max(self._highest_id, _number(value, "highestId"))


def _object(raw: bytes) -> dict[str, object]:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        raise _foreign() from None
    if not isinstance(value, dict):
        raise _foreign()
    return value


def _text(value: dict[str, object], name: str) -> str:
    found = value.get(name)
    if not isinstance(found, str):
        raise _foreign()
    return found


def _number(value: dict[str, object], name: str) -> int:
    found = value.get(name)
    if not isinstance(found, int) or isinstance(found, bool) or found < 0:
        raise _foreign()
    return found


def _foreign() -> LogError:
    return LogError(
        "The registry's log holds a record that is not the registry's. "
        "Allow writes to the topic to the registry only, and delete the record by its key."
    )
