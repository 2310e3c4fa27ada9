from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Basket(_message.Message):
    __slots__ = ("lines", "consistency_token", "wait_ms")
    LINES_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_TOKEN_FIELD_NUMBER: _ClassVar[int]
    WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    lines: _containers.RepeatedCompositeFieldContainer[BasketLine]
    consistency_token: str
    wait_ms: int
    def __init__(self, lines: _Optional[_Iterable[_Union[BasketLine, _Mapping[str, object]]]] = ..., consistency_token: _Optional[str] = ..., wait_ms: _Optional[int] = ...) -> None: ...

class BasketLine(_message.Message):
    __slots__ = ("sku", "quantity")
    SKU_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    sku: str
    quantity: int
    def __init__(self, sku: _Optional[str] = ..., quantity: _Optional[int] = ...) -> None: ...

class Availability(_message.Message):
    __slots__ = ("lines", "as_of")
    LINES_FIELD_NUMBER: _ClassVar[int]
    AS_OF_FIELD_NUMBER: _ClassVar[int]
    lines: _containers.RepeatedCompositeFieldContainer[LineAvailability]
    as_of: str
    def __init__(self, lines: _Optional[_Iterable[_Union[LineAvailability, _Mapping[str, object]]]] = ..., as_of: _Optional[str] = ...) -> None: ...

class LineAvailability(_message.Message):
    __slots__ = ("sku", "available", "enough")
    SKU_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_FIELD_NUMBER: _ClassVar[int]
    ENOUGH_FIELD_NUMBER: _ClassVar[int]
    sku: str
    available: int
    enough: bool
    def __init__(self, sku: _Optional[str] = ..., available: _Optional[int] = ..., enough: _Optional[bool] = ...) -> None: ...
