"""Errors as application/problem+json (RFC 9457), and the pages that explain them.

A problem never repeats the input, and an error of ours (status 500) never says what went wrong
inside: the log does, under the same trace id.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from typing import Any

import msgspec
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from tidelog import errors as platform
from tidelog.aggregate import Aggregate
from tidelog.errors import (
    DefinitionError,
    IdempotencyKeyReused,
    Invalid,
    Malformed,
    NotYetVisible,
    Rejected,
    StaleVersion,
    TidelogError,
    Unavailable,
    Unknown,
)
from tidelog.http.errors import HTTP_ERRORS, InternalError, MethodNotAllowed, QuotaExceeded
from tidelog.http.headers import Trace

MEDIA_TYPE = b"application/problem+json"

current_trace: ContextVar[Trace | None] = ContextVar("tidelog_trace", default=None)
"""The trace of the request that is being answered."""

_SAFE_PATH = re.compile(r"(/[A-Za-z0-9._~:-]{1,128}){1,5}", re.ASCII)
_INTERNAL = "Something went wrong on our side. The log tells more under this trace id."


class FieldError(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong with one value; `pointer` (RFC 6901) says which."""

    pointer: str
    detail: str


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A problem document."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    trace_id: str
    errors: tuple[FieldError, ...] = ()
    actual_version: int | None = None
    current_position: str | None = None


def problem_of(error: TidelogError, path: str, trace_id: str) -> Problem:
    """The problem document of an error that answers a request to `path`."""
    return Problem(
        type=f"/problems/{slug_of(type(error))}",
        title=title_of(type(error)),
        status=error.status,
        detail=_INTERNAL if error.status == 500 else error.detail,
        instance=path if _SAFE_PATH.fullmatch(path) else f"urn:trace:{trace_id}",
        trace_id=trace_id,
        errors=_field_errors(error),
        actual_version=(error.actual_version if isinstance(error, StaleVersion) else None),
        current_position=(error.current_position if isinstance(error, NotYetVisible) else None),
    )


def problem_headers(error: TidelogError) -> list[tuple[bytes, bytes]]:
    """The headers that the kind of error asks for, beside content type and length."""
    if isinstance(error, Unavailable | QuotaExceeded):
        return [(b"retry-after", b"%d" % error.retry_after_s)]
    if isinstance(error, MethodNotAllowed):
        return [(b"allow", error.allow.encode("ascii"))]
    if error.status == 401:
        return [(b"www-authenticate", b"Bearer")]
    return []


def slug_of(error: type[TidelogError]) -> str:
    """The name of the problem's page; faults of ours share one."""
    return "internal-error" if error.status == 500 else error.slug()


def title_of(error: type[TidelogError]) -> str:
    """A short text for the kind of problem; a rule's is its name in words."""
    if issubclass(error, Rejected) and "title" not in vars(error):
        return error.slug().replace("-", " ").capitalize()
    return error.title


def _field_errors(error: TidelogError) -> tuple[FieldError, ...]:
    if isinstance(error, Invalid) and not isinstance(error, IdempotencyKeyReused):
        return (FieldError(pointer=error.pointer, detail=error.detail),)
    return ()


# The errors of Starlette and FastAPI, answered in the same form.


def exception_handlers() -> dict[Any, Any]:
    """The handlers of an app whose every error is a problem document."""
    return {
        TidelogError: _answer_tidelog_error,
        HTTPException: _answer_http_exception,
        RequestValidationError: _answer_validation_error,
        Exception: _answer_fault,
    }


def problem_response(error: TidelogError, path: str) -> Response:
    """The error as a Starlette response."""
    trace = current_trace.get()
    problem = problem_of(error, path, trace.trace_id if trace else "")
    response = Response(msgspec.json.encode(problem), error.status, media_type=MEDIA_TYPE.decode())
    response.raw_headers.extend(problem_headers(error))
    return response


async def _answer_tidelog_error(request: Request, error: TidelogError) -> Response:
    return problem_response(error, request.url.path)


async def _answer_fault(request: Request, _: Exception) -> Response:
    return problem_response(InternalError(), request.url.path)


async def _answer_http_exception(request: Request, error: HTTPException) -> Response:
    path = request.url.path
    if error.status_code == 404:
        return problem_response(
            Unknown("There is nothing at this path; /openapi.json lists what there is."), path
        )
    if error.status_code == 405:
        allow = (error.headers or {}).get("Allow", "GET")
        return problem_response(MethodNotAllowed(allow), path)
    known: dict[int, type[TidelogError]] = {kind.status: kind for kind in HTTP_ERRORS}
    kind = known.get(error.status_code, Malformed)
    return problem_response(kind("The request cannot be read."), path)


async def _answer_validation_error(request: Request, error: RequestValidationError) -> Response:
    """The first of FastAPI's findings, without its value. Bad JSON is malformed, not invalid."""
    found: Mapping[str, Any] = error.errors()[0]
    place = [str(part) for part in found.get("loc", ())]
    if found.get("type") == "json_invalid":
        return problem_response(
            Malformed("The body is not valid JSON (RFC 8259)."), request.url.path
        )
    steps = place[1:] if place[:1] == ["body"] else place
    safe = [step for step in steps if re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", step)]
    pointer = "".join(f"/{step}" for step in safe)
    detail = _KINDS.get(str(found.get("type")), "The value has another type or form.")
    return problem_response(Invalid(detail, pointer), request.url.path)


_KINDS = {
    "missing": "This is required.",
    "extra_forbidden": "There is no such field.",
    "greater_than_equal": "The value is too small.",
    "greater_than": "The value is too small.",
    "less_than_equal": "The value is too large.",
    "less_than": "The value is too large.",
    "string_too_long": "The text is too long.",
    "string_too_short": "The text is too short.",
    "string_pattern_mismatch": "The text has another form.",
    "enum": "This is not one of the values that the field takes.",
    "literal_error": "This is not one of the values that the field takes.",
}


# Which problems there are.


def known_problems(
    aggregates: Iterable[Aggregate[Any, Any, Any]],
    others: Iterable[type[TidelogError]] = (),
) -> dict[str, type[TidelogError]]:
    """Every problem that may be answered, by its slug: the platform's, and every rule's."""
    found: dict[str, type[TidelogError]] = {"internal-error": InternalError}
    rules = [rule for aggregate in aggregates for rule in rules_of(aggregate)]
    for error in (*_platform_errors(), *HTTP_ERRORS, *others, *rules):
        slug = slug_of(error)
        if found.setdefault(slug, error) is not error and error.status != 500:
            raise DefinitionError(f"two errors have the name {slug!r}; rename one")
    return found


def rules_of(aggregate: Aggregate[Any, Any, Any]) -> list[type[Rejected]]:
    """The rules that stand in the module of the aggregate's `decide`, in their order."""
    module = sys.modules[aggregate.decide.__module__]
    return [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Rejected) and value is not Rejected
    ]


def _platform_errors() -> list[type[TidelogError]]:
    return [
        value
        for value in vars(platform).values()
        if isinstance(value, type)
        and issubclass(value, TidelogError)
        and value.status < 600
        and value not in (TidelogError, Rejected)
    ]
