"""What the registry refuses, and the error codes of Confluent's REST API that say so.

CodecError
├── SchemaRefused      a schema breaks a rule; names the field path and the rule
└── RegistryRefusal    the registry says no; carries the error code (its first three digits are
                       the HTTP status)
"""

from __future__ import annotations

from enum import IntEnum

from tidelog.errors import CodecError


class ErrorCode(IntEnum):
    """Error codes as Confluent documents them; clients branch on these numbers."""

    MALFORMED = 400
    NOT_FOUND = 404
    METHOD_NOT_ALLOWED = 405
    INCOMPATIBLE = 409
    TOO_LARGE = 413
    WRONG_MEDIA_TYPE = 415
    INVALID_BODY = 422
    SUBJECT_NOT_FOUND = 40401
    VERSION_NOT_FOUND = 40402
    SCHEMA_NOT_FOUND = 40403
    SUBJECT_SOFT_DELETED = 40404
    SUBJECT_NOT_SOFT_DELETED = 40405
    VERSION_SOFT_DELETED = 40406
    VERSION_NOT_SOFT_DELETED = 40407
    LEVEL_NOT_CONFIGURED = 40408
    MODE_NOT_CONFIGURED = 40409
    INVALID_SCHEMA = 42201
    INVALID_VERSION = 42202
    INVALID_LEVEL = 42203
    INVALID_MODE = 42204
    OPERATION_NOT_PERMITTED = 42205
    REFERENCE_EXISTS = 42206
    INVALID_SUBJECT = 42208
    SCHEMA_TOO_LARGE = 42209
    STORE_FAILED = 50001
    NOT_WRITER = 50003


class SchemaRefused(CodecError):
    """A schema breaks a rule; the message names the path inside the schema and the rule."""

    def __init__(self, path: str, rule: str) -> None:
        super().__init__(f"{path}: {rule}")
        self.path = path
        self.rule = rule


class RegistryRefusal(CodecError):
    """The registry says no; `code` is Confluent's error code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code

    @property
    def http_status(self) -> int:
        """The HTTP status: the first three digits of the code (a lost writer is 503)."""
        if self.code == ErrorCode.NOT_WRITER:
            return 503
        return int(str(self.code)[:3])
