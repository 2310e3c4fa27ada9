"""What the registry decides: a request and the store in, records to append out.

Pure, as an aggregate's `decide`: the records are the events, `SchemaStore.after` evolves, and
a refusal carries Confluent's error code. Deciding again after the records landed is harmless.
"""

from __future__ import annotations

from functools import lru_cache

from tidelog.registry.canonical import canonical, normal_form
from tidelog.registry.compatibility import LEVELS, default_level, incompatibilities
from tidelog.registry.errors import ErrorCode, RegistryRefusal, SchemaRefused
from tidelog.registry.lints import checked_text
from tidelog.registry.log import LogRecord
from tidelog.registry.model import Node, parse_text
from tidelog.registry.store import (
    SchemaStore,
    Version,
    delete_subject_record,
    highest_id_record,
    level_record,
    mode_record,
    schema_record,
    schema_tombstone,
)

MODES = ("READWRITE", "READONLY")
DEFAULT_LEVEL = "BACKWARD"
DEFAULT_MODE = "READWRITE"
SUBJECT_CHARACTERS_MAX = 512
PARSED_SCHEMAS_MAX = 1_024
VERSION_MAX = 2**31 - 1


def register(store: SchemaStore, subject: str, text: str) -> list[LogRecord]:
    """The record of a new version; none if the subject has this schema already."""
    if find(store, subject, text) is not None:
        return []
    writable(store, subject)
    messages = judge(store, subject, text, store.versions(subject))
    if messages:
        raise RegistryRefusal(
            ErrorCode.INCOMPATIBLE,
            f"Schema being registered is incompatible with an earlier schema of subject "
            f"'{subject}' ({level_of(store, subject)}): {'; '.join(messages)}",
        )
    every = store.versions(subject, deleted=True)
    version = Version(
        subject=subject,
        version=every[-1].version + 1 if every else 1,
        schema_id=store.ids.get(text, store.highest_id + 1),
    )
    return [schema_record(version, text)]


def judge(store: SchemaStore, subject: str, text: str, against: list[Version]) -> list[str]:
    """Why the schema may not follow these versions; [] if it may."""
    older = [(version.version, parsed(store.texts[version.schema_id])) for version in against]
    return incompatibilities(level_of(store, subject), parsed(text), older)


def delete_subject(store: SchemaStore, subject: str, *, permanent: bool) -> list[LogRecord]:
    """Delete every version: softly, or for good what was softly deleted before."""
    every, live = store.versions(subject, deleted=True), store.versions(subject)
    if not every:
        raise no_subject(subject)
    writable(store, subject)
    if permanent:
        if live:
            raise RegistryRefusal(
                ErrorCode.SUBJECT_NOT_SOFT_DELETED,
                f"Subject '{subject}' was not deleted first before being permanently deleted",
            )
        tombstones = [schema_tombstone(subject, version.version) for version in every]
        return [highest_id_record(store.highest_id), *tombstones]
    if not live:
        raise RegistryRefusal(
            ErrorCode.SUBJECT_SOFT_DELETED,
            f"Subject '{subject}' was soft deleted. Set permanent=true to delete permanently",
        )
    records = [delete_subject_record(subject, every[-1].version)]
    records += [level_record(subject, None)] if subject in store.levels else []
    records += [mode_record(subject, None)] if subject in store.modes else []
    return records


def delete_version(
    store: SchemaStore, subject: str, wanted: str, *, permanent: bool
) -> list[LogRecord]:
    """Delete one version: softly, or for good if it was softly deleted before."""
    version = version_of(store, subject, wanted, deleted=True)
    writable(store, subject)
    if permanent:
        if not version.deleted:
            raise RegistryRefusal(
                ErrorCode.VERSION_NOT_SOFT_DELETED,
                f"Subject '{subject}' Version {version.version} was not deleted first "
                "before being permanently deleted",
            )
        return [
            highest_id_record(store.highest_id),
            schema_tombstone(subject, version.version),
        ]
    if version.deleted:
        raise RegistryRefusal(
            ErrorCode.VERSION_SOFT_DELETED,
            f"Subject '{subject}' Version {version.version} was soft deleted. "
            "Set permanent=true to delete permanently",
        )
    gone = Version(
        subject=subject,
        version=version.version,
        schema_id=version.schema_id,
        deleted=True,
    )
    return [schema_record(gone, store.texts[version.schema_id])]


def set_level(store: SchemaStore, subject: str | None, level: str) -> list[LogRecord]:
    """Set the compatibility level of a subject or of all."""
    if level not in LEVELS:
        raise RegistryRefusal(
            ErrorCode.INVALID_LEVEL,
            f"Invalid compatibility level. Valid values are {', '.join(LEVELS)}",
        )
    writable(store, subject)
    return [] if store.levels.get(subject) == level else [level_record(subject, level)]


def delete_level(store: SchemaStore, subject: str | None) -> list[LogRecord]:
    """Remove a configured level, so that the default holds again."""
    if subject is not None and subject not in store.levels:
        raise no_level(subject)
    writable(store, subject)
    return [level_record(subject, None)] if subject in store.levels else []


def set_mode(store: SchemaStore, subject: str | None, mode: str) -> list[LogRecord]:
    """Set the mode of a subject or of all."""
    if mode not in MODES:
        raise RegistryRefusal(
            ErrorCode.INVALID_MODE, f"Invalid mode. Valid values are {', '.join(MODES)}"
        )
    return [] if store.modes.get(subject) == mode else [mode_record(subject, mode)]


def delete_mode(store: SchemaStore, subject: str | None) -> list[LogRecord]:
    """Remove a configured mode, so that the default holds again."""
    if subject is not None and subject not in store.modes:
        raise no_mode(subject)
    return [mode_record(subject, None)] if subject in store.modes else []


def find(store: SchemaStore, subject: str, text: str, *, deleted: bool = False) -> Version | None:
    """The newest version of the subject that has exactly this canonical text."""
    found = [
        version
        for version in store.versions(subject, deleted=deleted)
        if store.texts[version.schema_id] == text
    ]
    return found[-1] if found else None


def version_of(store: SchemaStore, subject: str, wanted: str, *, deleted: bool) -> Version:
    """The version that a path names: a number, `latest` or -1 (the latest live one)."""
    number = _version_number(wanted)
    versions = store.versions(subject, deleted=deleted)
    if not versions:
        raise no_subject(subject)
    if number is None:
        live = store.versions(subject)
        return live[-1] if live else versions[-1]
    for version in versions:
        if version.version == number:
            return version
    raise RegistryRefusal(ErrorCode.VERSION_NOT_FOUND, f"Version {number} not found.")


def _version_number(wanted: str) -> int | None:
    if wanted in ("latest", "-1"):
        return None
    digits = wanted.isascii() and wanted.isdigit() and len(wanted) <= 10
    number = int(wanted) if digits else 0
    if not 1 <= number <= VERSION_MAX:
        raise RegistryRefusal(
            ErrorCode.INVALID_VERSION,
            "The specified version is not a valid version id. Allowed values are between "
            f'[1, {VERSION_MAX}] and the string "latest"',
        )
    return number


def level_of(store: SchemaStore, subject: str) -> str:
    """The subject's own level, else what its name asks for, else the level of all.

    A level set for all never weakens subjects of `.events` and `.commands` topics.
    """
    named = default_level(subject)
    if subject in store.levels:
        return store.levels[subject]
    return named if named != DEFAULT_LEVEL else store.levels.get(None, DEFAULT_LEVEL)


def mode_of(store: SchemaStore, subject: str | None) -> str:
    """The subject's own mode, else the mode of all."""
    return store.modes.get(subject, store.modes.get(None, DEFAULT_MODE))


def writable(store: SchemaStore, subject: str | None) -> None:
    """Refuse a write to what is read only."""
    if mode_of(store, subject) != "READWRITE":
        where = "The registry" if subject is None else f"Subject '{subject}'"
        raise RegistryRefusal(ErrorCode.OPERATION_NOT_PERMITTED, f"{where} is in read-only mode")


def valid_subject(subject: str) -> str:
    """A subject's name: printable, at most 512 characters, not a context of Confluent's."""
    if (
        not 1 <= len(subject) <= SUBJECT_CHARACTERS_MAX
        or not subject.isprintable()
        or subject.startswith(":.")
        or subject in ("__GLOBAL", "__EMPTY")
    ):
        raise RegistryRefusal(
            ErrorCode.INVALID_SUBJECT,
            "The specified subject is not a valid subject name "
            f"(printable, at most {SUBJECT_CHARACTERS_MAX} characters, no context)",
        )
    return subject


def accepted_text(schema_json: str, *, normalize: bool = False) -> str:
    """The canonical text of a schema that satisfies every lint."""
    try:
        node = checked_text(schema_json)
    except SchemaRefused as error:
        raise RegistryRefusal(ErrorCode.INVALID_SCHEMA, f"Invalid schema: {error}") from None
    return normal_form(node) if normalize else canonical(node)


@lru_cache(maxsize=PARSED_SCHEMAS_MAX)
def parsed(text: str) -> Node:
    """A stored schema as nodes; it was checked when it was registered."""
    return parse_text(text)


def no_subject(subject: str) -> RegistryRefusal:
    """There is no such subject."""
    return RegistryRefusal(ErrorCode.SUBJECT_NOT_FOUND, f"Subject '{subject}' not found.")


def no_schema() -> RegistryRefusal:
    """There is no such schema."""
    return RegistryRefusal(ErrorCode.SCHEMA_NOT_FOUND, "Schema not found")


def no_level(subject: str) -> RegistryRefusal:
    """The subject has no level of its own."""
    return RegistryRefusal(
        ErrorCode.LEVEL_NOT_CONFIGURED,
        f"Subject '{subject}' does not have subject-level compatibility configured",
    )


def no_mode(subject: str) -> RegistryRefusal:
    """The subject has no mode of its own."""
    return RegistryRefusal(
        ErrorCode.MODE_NOT_CONFIGURED,
        f"Subject '{subject}' does not have subject-level mode configured",
    )
