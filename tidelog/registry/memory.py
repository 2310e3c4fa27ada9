"""The registry in memory: the same service over the log in memory, without HTTP."""

from __future__ import annotations

import json

from tidelog.registry.decisions import valid_subject
from tidelog.registry.errors import ErrorCode, RegistryRefusal
from tidelog.registry.log import MemoryLog
from tidelog.registry.service import RegistryService


class MemoryRegistry:
    """A SchemaRegistry for tests and simulation."""

    def __init__(self) -> None:
        self._service = RegistryService(MemoryLog())
        self._service.open()

    def register(self, subject: str, schema_json: str) -> int:
        """The id of the schema, registered under the subject if it is not there yet."""
        return self._service.register(valid_subject(subject), schema_json).schema_id

    def schema(self, schema_id: int) -> object:
        """The schema of an id as JSON."""
        return json.loads(self._service.text(schema_id))

    def lookup(self, subject: str, schema_json: str) -> int | None:
        """The id of the schema if the subject has it."""
        try:
            return self._service.lookup(valid_subject(subject), schema_json).schema_id
        except RegistryRefusal as error:
            if error.code in (ErrorCode.SUBJECT_NOT_FOUND, ErrorCode.SCHEMA_NOT_FOUND):
                return None
            raise

    def check(self, subject: str, schema_json: str) -> list[str]:
        """Why the schema could not be registered, as sentences; [] if it could."""
        try:
            return self._service.check(valid_subject(subject), schema_json)
        except RegistryRefusal as error:
            if error.code == ErrorCode.INVALID_SCHEMA:
                return [str(error)]
            raise
