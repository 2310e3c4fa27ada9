"""The port through which the platform asks a schema registry, whichever it is."""

from __future__ import annotations

from typing import Protocol

MEDIA_TYPE = "application/vnd.schemaregistry.v1+json"


class SchemaRegistry(Protocol):
    """A registry of Avro schemas: ids are global, for ever, and never change their schema.

    Every method raises Unavailable when the registry cannot be asked, and CodecError when it
    says no: an unknown id, a schema that breaks a rule or is incompatible with its subject.
    """

    def register(self, subject: str, schema_json: str) -> int:
        """The id of the schema, registered under the subject if it is not there yet."""

    def schema(self, schema_id: int) -> object:
        """The schema of an id as JSON (str, dict or list); the caller may keep and change it."""

    def lookup(self, subject: str, schema_json: str) -> int | None:
        """The id of the schema if the subject has it."""

    def check(self, subject: str, schema_json: str) -> list[str]:
        """Why the schema could not be registered, as sentences; [] if it could."""
