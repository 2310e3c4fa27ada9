from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Command(_message.Message):
    __slots__ = ("command", "id", "data", "idempotency_key", "if_match")
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    IF_MATCH_FIELD_NUMBER: _ClassVar[int]
    command: str
    id: str
    data: bytes
    idempotency_key: str
    if_match: str
    def __init__(self, command: _Optional[str] = ..., id: _Optional[str] = ..., data: _Optional[bytes] = ..., idempotency_key: _Optional[str] = ..., if_match: _Optional[str] = ...) -> None: ...

class Result(_message.Message):
    __slots__ = ("id", "version", "events", "token", "replayed", "idempotency_key")
    ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    id: str
    version: int
    events: _containers.RepeatedCompositeFieldContainer[Event]
    token: str
    replayed: bool
    idempotency_key: str
    def __init__(self, id: _Optional[str] = ..., version: _Optional[int] = ..., events: _Optional[_Iterable[_Union[Event, _Mapping[str, object]]]] = ..., token: _Optional[str] = ..., replayed: _Optional[bool] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("type", "position")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    type: str
    position: str
    def __init__(self, type: _Optional[str] = ..., position: _Optional[str] = ...) -> None: ...

class Batch(_message.Message):
    __slots__ = ("commands",)
    COMMANDS_FIELD_NUMBER: _ClassVar[int]
    commands: _containers.RepeatedCompositeFieldContainer[Command]
    def __init__(self, commands: _Optional[_Iterable[_Union[Command, _Mapping[str, object]]]] = ...) -> None: ...

class Answers(_message.Message):
    __slots__ = ("answers",)
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    answers: _containers.RepeatedCompositeFieldContainer[Answer]
    def __init__(self, answers: _Optional[_Iterable[_Union[Answer, _Mapping[str, object]]]] = ...) -> None: ...

class Answer(_message.Message):
    __slots__ = ("result", "problem")
    RESULT_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    result: Result
    problem: Problem
    def __init__(self, result: _Optional[_Union[Result, _Mapping[str, object]]] = ..., problem: _Optional[_Union[Problem, _Mapping[str, object]]] = ...) -> None: ...

class Problem(_message.Message):
    __slots__ = ("type", "title", "status", "detail", "instance", "trace_id", "errors", "actual_version", "retry_after_seconds")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    ACTUAL_VERSION_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_SECONDS_FIELD_NUMBER: _ClassVar[int]
    type: str
    title: str
    status: int
    detail: str
    instance: str
    trace_id: str
    errors: _containers.RepeatedCompositeFieldContainer[FieldError]
    actual_version: int
    retry_after_seconds: int
    def __init__(self, type: _Optional[str] = ..., title: _Optional[str] = ..., status: _Optional[int] = ..., detail: _Optional[str] = ..., instance: _Optional[str] = ..., trace_id: _Optional[str] = ..., errors: _Optional[_Iterable[_Union[FieldError, _Mapping[str, object]]]] = ..., actual_version: _Optional[int] = ..., retry_after_seconds: _Optional[int] = ...) -> None: ...

class FieldError(_message.Message):
    __slots__ = ("pointer", "detail")
    POINTER_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    pointer: str
    detail: str
    def __init__(self, pointer: _Optional[str] = ..., detail: _Optional[str] = ...) -> None: ...
