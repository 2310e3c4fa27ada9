"""Errors as gRPC carries them, and back: one to one.

A client gets a status and the whole problem document beside it. An instance that has forwarded a
command gets a refusal, from which it makes the very error that the owner has raised, so that its
own caller cannot tell who answered.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import grpc

from tidelog.errors import (
    Blocked,
    CommandFault,
    IdempotencyKeyReused,
    Invalid,
    Malformed,
    NotYetVisible,
    Overloaded,
    Rejected,
    StaleVersion,
    TidelogError,
    Unavailable,
    Unknown,
)
from tidelog.grpc import commands_pb2, peers_pb2
from tidelog.http.errors import (
    ContentTooLarge,
    Forbidden,
    InternalError,
    PreconditionRequired,
    QuotaExceeded,
    Unauthorized,
)
from tidelog.http.problems import problem_of, slug_of

PROBLEM_KEY: Final = "problem-bin"
"""The trailing metadata that holds the Problem of a call that was refused."""

CODES: Final[Mapping[type[TidelogError], grpc.StatusCode]] = {
    Malformed: grpc.StatusCode.INVALID_ARGUMENT,
    Unauthorized: grpc.StatusCode.UNAUTHENTICATED,
    Forbidden: grpc.StatusCode.PERMISSION_DENIED,
    Unknown: grpc.StatusCode.NOT_FOUND,
    Rejected: grpc.StatusCode.FAILED_PRECONDITION,
    Blocked: grpc.StatusCode.FAILED_PRECONDITION,
    StaleVersion: grpc.StatusCode.ABORTED,
    ContentTooLarge: grpc.StatusCode.OUT_OF_RANGE,
    Invalid: grpc.StatusCode.INVALID_ARGUMENT,
    IdempotencyKeyReused: grpc.StatusCode.ALREADY_EXISTS,
    PreconditionRequired: grpc.StatusCode.FAILED_PRECONDITION,
    QuotaExceeded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    # Nothing is out of order: the caller asks for what is not there yet.
    NotYetVisible: grpc.StatusCode.FAILED_PRECONDITION,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
}
"""The status of each kind of error and of what is derived from it; INTERNAL is for all others."""

_NAME = re.compile(r"[a-z0-9]{1,64}(-[a-z0-9]{1,64}){0,15}")


def code_of(error: TidelogError) -> grpc.StatusCode:
    """The status of an error: that of the nearest kind above it."""
    for kind in type(error).__mro__:
        if issubclass(kind, TidelogError) and kind in CODES:
            return CODES[kind]
    return grpc.StatusCode.INTERNAL


def problem_message(error: TidelogError, path: str, trace_id: str) -> commands_pb2.Problem:
    """The problem document of the error, as HTTP would answer it."""
    shown = error if error.status != 500 else InternalError()
    problem = problem_of(shown, path, trace_id)
    return commands_pb2.Problem(
        type=problem.type,
        title=problem.title,
        status=problem.status,
        detail=problem.detail,
        instance=problem.instance,
        trace_id=problem.trace_id,
        errors=[
            commands_pb2.FieldError(pointer=each.pointer, detail=each.detail)
            for each in problem.errors
        ],
        actual_version=problem.actual_version,
        retry_after_seconds=(
            error.retry_after_s if isinstance(error, Unavailable | QuotaExceeded) else None
        ),
    )


def refusal_of(error: TidelogError) -> peers_pb2.Refusal:
    """What the instance that forwarded the command must know of the error."""
    return peers_pb2.Refusal(
        name=slug_of(type(error)),
        status=error.status,
        detail=error.detail,
        pointer=error.pointer if isinstance(error, Invalid) else "",
        actual_version=error.actual_version if isinstance(error, StaleVersion) else None,
    )


def error_of(refusal: peers_pb2.Refusal, known: Mapping[str, type[TidelogError]]) -> TidelogError:
    """The error that the owner has raised; `known` has every kind by the name of its problem."""
    kind = known.get(refusal.name) or _newer_rule(refusal)
    if kind is None or kind.status == CommandFault.status:
        return CommandFault(refusal.detail)
    if issubclass(kind, StaleVersion):
        return kind(refusal.actual_version)
    if issubclass(kind, IdempotencyKeyReused):
        return kind()
    if issubclass(kind, Invalid):
        return kind(refusal.detail, refusal.pointer)
    return kind(refusal.detail)


def _newer_rule(refusal: peers_pb2.Refusal) -> type[Rejected] | None:
    """A rule that only a newer release has: the same problem, made from what is told of it."""
    if refusal.status != Rejected.status or not _NAME.fullmatch(refusal.name):
        return None
    name = "".join(part.capitalize() for part in refusal.name.split("-"))
    return type(name, (Rejected,), {"__doc__": refusal.detail})
