from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ForwardedCommand(_message.Message):
    __slots__ = ("context", "key", "command_id", "command_hash", "command", "correlation_id", "traceparent", "expected_version")
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    COMMAND_ID_FIELD_NUMBER: _ClassVar[int]
    COMMAND_HASH_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    CORRELATION_ID_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    context: str
    key: str
    command_id: str
    command_hash: str
    command: bytes
    correlation_id: str
    traceparent: str
    expected_version: int
    def __init__(self, context: _Optional[str] = ..., key: _Optional[str] = ..., command_id: _Optional[str] = ..., command_hash: _Optional[str] = ..., command: _Optional[bytes] = ..., correlation_id: _Optional[str] = ..., traceparent: _Optional[str] = ..., expected_version: _Optional[int] = ...) -> None: ...

class Outcome(_message.Message):
    __slots__ = ("recorded", "unchanged", "refusal")
    RECORDED_FIELD_NUMBER: _ClassVar[int]
    UNCHANGED_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    recorded: Recorded
    unchanged: Unchanged
    refusal: Refusal
    def __init__(self, recorded: _Optional[_Union[Recorded, _Mapping[str, object]]] = ..., unchanged: _Optional[_Union[Unchanged, _Mapping[str, object]]] = ..., refusal: _Optional[_Union[Refusal, _Mapping[str, object]]] = ...) -> None: ...

class Recorded(_message.Message):
    __slots__ = ("version", "events", "replayed")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    version: int
    events: _containers.RepeatedCompositeFieldContainer[RecordedEvent]
    replayed: bool
    def __init__(self, version: _Optional[int] = ..., events: _Optional[_Iterable[_Union[RecordedEvent, _Mapping[str, object]]]] = ..., replayed: _Optional[bool] = ...) -> None: ...

class RecordedEvent(_message.Message):
    __slots__ = ("type", "sequence")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    type: str
    sequence: int
    def __init__(self, type: _Optional[str] = ..., sequence: _Optional[int] = ...) -> None: ...

class Unchanged(_message.Message):
    __slots__ = ("version", "sequence")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    version: int
    sequence: int
    def __init__(self, version: _Optional[int] = ..., sequence: _Optional[int] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("name", "status", "detail", "pointer", "actual_version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    POINTER_FIELD_NUMBER: _ClassVar[int]
    ACTUAL_VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    status: int
    detail: str
    pointer: str
    actual_version: int
    def __init__(self, name: _Optional[str] = ..., status: _Optional[int] = ..., detail: _Optional[str] = ..., pointer: _Optional[str] = ..., actual_version: _Optional[int] = ...) -> None: ...
