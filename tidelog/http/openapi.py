"""The OpenAPI document of a service's commands, made from the same types that check them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from tidelog.errors import (
    Invalid,
    Malformed,
    Overloaded,
    StaleVersion,
    TidelogError,
    Unknown,
)
from tidelog.http import errors as http
from tidelog.http.command_api import CommandRoute
from tidelog.http.problems import Problem, problem_of, rules_of

VERSION = "3.1.0"

_REFERENCE = "#/components/schemas/{name}"
_TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
_EXAMPLES_OF_TEXT = ("2026-07-31", "EUR", "DE", "example", "orders:3:1042", "OrderPlaced")
_COMMON: tuple[TidelogError, ...] = (
    Malformed("The body is not valid JSON (RFC 8259)."),
    http.Unauthorized("Send a token in the Authorization header."),
    http.Forbidden("The token lacks the scope of this command."),
    Unknown("There is nothing at this path; /openapi.json lists what there is."),
    http.MethodNotAllowed("POST"),
    http.RequestTimeout("The body did not arrive in time."),
    StaleVersion(3),
    http.ContentTooLarge("The body may be at most 1048576 bytes."),
    http.UnsupportedMediaType("Send the body as application/json."),
    Invalid("This field is required.", "/reason"),
    http.PreconditionRequired("Send If-Match with the version that you read."),
    http.HeadersTooLarge("The request line and headers may be at most 32768 bytes."),
    http.InternalError(),
    Overloaded("The queue of the partition is full. Wait, then send it again."),
)


def openapi_of(title: str, version: str, routes: Sequence[CommandRoute]) -> dict[str, Any]:
    """The whole document: every command with its body, examples, headers and problems."""
    _, schemas = msgspec.json.schema_components(
        [*(route.command_type for route in routes), Problem], ref_template=_REFERENCE
    )
    paths: dict[str, Any] = {
        route.template: {"post": _operation(route, schemas)} for route in routes
    }
    if routes:
        paths["/commands"] = {"post": _many(routes[0])}
        paths["/operations/{id}"] = {"get": _read_operation()}
    return {
        "openapi": VERSION,
        "info": {"title": title, "version": version},
        "paths": paths,
        "components": {
            "schemas": {**schemas, **_RESULTS},
            "responses": {_response_name(error): _problem(error) for error in _COMMON},
            "headers": _HEADERS,
            "parameters": _PARAMETERS,
        },
    }


def _operation(route: CommandRoute, schemas: Mapping[str, Any]) -> dict[str, Any]:
    _, context, _, command = route.template.split("/")
    path_id = {
        "name": route.context.key,
        "in": "path",
        "required": True,
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._~-]{1,128}$"},
        "example": f"{route.context.key.removesuffix('_id')}-1",
    }
    references = [{"$ref": f"#/components/parameters/{name}"} for name in _PARAMETERS]
    return {
        "operationId": f"{context}.{command}",
        "tags": [context],
        "summary": _words(route.command_type.__name__),
        "description": inspect.getdoc(route.command_type) or "",
        "parameters": [path_id, *references],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": body_schema(route, schemas),
                    "example": body_example(route),
                }
            },
        },
        "responses": {**_answers(), **_problems(), "409": _rules(route)},
    }


def body_schema(route: CommandRoute, schemas: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of the command without its key, which stands in the path."""
    whole: dict[str, Any] = schemas[route.command_type.__name__]
    key = route.context.key
    fields = {name: field for name, field in whole["properties"].items() if name != key}
    required = [name for name in whole.get("required", []) if name != key]
    return {
        "type": "object",
        "properties": fields,
        "required": required,
        "additionalProperties": False,
    }


def body_example(route: CommandRoute) -> dict[str, Any]:
    """A body that the command's type accepts."""
    info = msgspec.inspect.type_info(route.command_type)
    assert isinstance(info, msgspec.inspect.StructType)
    example: dict[str, Any] = _example(info, "")
    example.pop(route.context.key)
    return example


def _example(info: Any, name: str) -> Any:
    match info:
        case msgspec.inspect.StructType(fields=fields):
            return {field.name: _example(field.type, field.name) for field in fields}
        case (
            msgspec.inspect.VarTupleType(item_type=item) | msgspec.inspect.ListType(item_type=item)
        ):
            return [_example(item, name)]
        case msgspec.inspect.UnionType(types=types):
            return _example(types[0], name)
        case msgspec.inspect.Metadata(type=inner):
            return _example(inner, name)
        case msgspec.inspect.DictType():
            return {}
    return _example_value(info, name)


def _example_value(info: Any, name: str) -> Any:
    match info:
        case msgspec.inspect.LiteralType(values=values):
            return "EUR" if "EUR" in values else values[0]
        case msgspec.inspect.IntType(ge=ge, gt=gt):
            return max(1, ge if ge is not None else 1, gt + 1 if gt is not None else 1)
        case msgspec.inspect.FloatType():
            return 1.5
        case msgspec.inspect.BoolType():
            return True
        case msgspec.inspect.StrType(pattern=pattern):
            return _example_text(name, pattern)
    return None


def _example_text(name: str, pattern: str | None) -> str:
    own = f"{name.removesuffix('_id').replace('_', '-')}-1" if name else "example"
    for candidate in (own, *_EXAMPLES_OF_TEXT):
        if pattern is None or re.search(pattern, candidate):
            return candidate
    return own


def _answers() -> dict[str, Any]:
    return {
        "200": _answer("The command changed nothing.", "Unchanged"),
        "201": _answer("The command's events are in the log.", "Recorded"),
        "202": {
            "description": "Prefer: respond-async was sent; the command is durable.",
            "headers": {"Location": {"schema": {"type": "string"}}},
            "content": {
                "application/json": {"schema": _reference("Operation")},
            },
        },
    }


def _answer(description: str, schema: str) -> dict[str, Any]:
    return {
        "description": description,
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in _HEADERS},
        "content": {"application/json": {"schema": _reference(schema)}},
    }


def _problems() -> dict[str, Any]:
    return {
        str(error.status): {"$ref": f"#/components/responses/{_response_name(error)}"}
        for error in _COMMON
    }


def _response_name(error: TidelogError) -> str:
    return type(error).__name__


def _problem(error: TidelogError) -> dict[str, Any]:
    description = " ".join((inspect.getdoc(type(error)) or "").split())
    return _problem_response(description, {type(error).slug(): error})


def _rules(route: CommandRoute) -> dict[str, Any]:
    rules = rules_of(route.aggregate)
    return _problem_response(
        "A rule of the domain says no; the type names it.",
        # A rule may want arguments; its name and docstring are all that is shown.
        {rule.slug(): rule.__new__(rule) for rule in rules},
    )


def _problem_response(description: str, examples: Mapping[str, TidelogError]) -> dict[str, Any]:
    shown = {
        slug: {"value": msgspec.to_builtins(problem_of(error, "/example", _TRACE))}
        for slug, error in examples.items()
    }
    return {
        "description": description,
        "content": {
            "application/problem+json": {
                "schema": _reference("Problem"),
                "examples": shown,
            }
        },
    }


def _many(first: CommandRoute) -> dict[str, Any]:
    _, context, _, command = first.template.split("/")
    line = {
        "command": f"{context}/{command}",
        "id": "id-1",
        "data": body_example(first),
    }
    return {
        "operationId": "commands",
        "tags": ["commands"],
        "summary": "Many commands",
        "description": "At most 1,000 lines and 1 MiB, one command per line, a line of answer "
        "each, in order. A line that is wrong fails alone.",
        "requestBody": {
            "required": True,
            "content": {
                "application/x-ndjson": {
                    "schema": _reference("CommandLine"),
                    "example": msgspec.json.encode(line).decode() + "\n",
                }
            },
        },
        "responses": {
            "200": {
                "description": "A line for each line, in their order.",
                "content": {"application/x-ndjson": {"schema": _reference("AnswerLine")}},
            },
            **_problems(),
        },
    }


def _read_operation() -> dict[str, Any]:
    return {
        "operationId": "operation",
        "tags": ["commands"],
        "summary": "What became of a command that was sent with Prefer: respond-async",
        "parameters": [
            {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
        ],
        "responses": {
            "200": {
                "description": "The operation; kept for 24 hours.",
                "content": {"application/json": {"schema": _reference("Operation")}},
            },
            "404": {"$ref": "#/components/responses/Unknown"},
        },
    }


def _words(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).capitalize()


def _reference(name: str) -> dict[str, str]:
    return {"$ref": _REFERENCE.format(name=name)}


_TEXT = {"type": "string"}

_HEADERS: dict[str, Any] = {
    "ETag": {"schema": _TEXT, "description": 'The version in quotes: "3".'},
    "Consistency-Token": {
        "schema": _TEXT,
        "description": "The aggregate's last position; send it with a query to read this write.",
    },
    "X-Correlation-Id": {"schema": _TEXT},
    "Idempotency-Key": {"schema": _TEXT, "description": "The key given, or made."},
}

_PARAMETERS: dict[str, Any] = {
    name: {
        "name": name,
        "in": "header",
        "required": False,
        "schema": _TEXT,
        "description": description,
        "example": example,
    }
    for name, description, example in (
        (
            "Idempotency-Key",
            (
                "1 to 128 printable ASCII characters, bare or quoted. The same key with the same "
                "command gives the same answer."
            ),
            "checkout-7f3a",
        ),
        ("If-Match", 'The version that must be current, "0" or *.', '"3"'),
        ("X-Correlation-Id", "Put on every event that the command causes.", "visit-42"),
        ("traceparent", "W3C Trace Context.", f"00-{_TRACE}-00f067aa0ba902b7-01"),
        ("Prefer", "respond-async: answer 202 once it is durable.", "respond-async"),
    )
}

_EVENTS = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"type": _TEXT, "position": _TEXT},
        "required": ["type", "position"],
    },
}


def _result(title: str, example: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "title": title,
        "type": "object",
        "properties": {
            "id": _TEXT,
            "version": {"type": "integer"},
            "events": _EVENTS,
            "token": _TEXT,
            "replayed": {"type": "boolean"},
        },
        "required": ["id", "version", "events", "replayed"],
        "examples": [dict(example)],
    }


_RESULTS: dict[str, Any] = {
    "Recorded": _result(
        "Recorded",
        {
            "id": "order-1",
            "version": 1,
            "events": [{"type": "OrderPlaced", "position": "orders:3:1042"}],
            "token": "orders:3:1042",
            "replayed": False,
        },
    ),
    "Unchanged": _result(
        "Unchanged",
        {
            "id": "order-1",
            "version": 1,
            "events": [],
            "token": "orders:3:1042",
            "replayed": False,
        },
    ),
    "Operation": {
        "type": "object",
        "properties": {
            "id": _TEXT,
            "status": {"enum": ["running", "done", "refused"]},
            "result": _reference("Recorded"),
            "problem": _reference("Problem"),
        },
        "required": ["id", "status"],
    },
    "CommandLine": {
        "type": "object",
        "properties": {
            "command": _TEXT,
            "id": _TEXT,
            "data": {"type": "object"},
            "idempotency_key": _TEXT,
            "if_match": {"type": ["integer", "string"]},
        },
        "required": ["command", "id", "data"],
        "additionalProperties": False,
    },
    "AnswerLine": {
        "type": "object",
        "properties": {
            "status": {"type": "integer"},
            "result": _reference("Recorded"),
            "problem": _reference("Problem"),
        },
        "required": ["status"],
    },
}
