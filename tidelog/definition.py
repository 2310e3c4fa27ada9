"""What a projection is, as a hash: whether the code that folds is the code that folded.

The hash takes in the row type (or the columns), the declared version, keys, indexes and the module
in which `evolve` (or `write`) is written, without its comments and docstrings. Another hash under
the same version means that the rows in the table may not be what this code would make of the log.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import sys
import typing
from collections.abc import Callable
from types import ModuleType
from typing import Any

from tidelog.errors import DefinitionError
from tidelog.postgres.sql_projection import SqlProjection
from tidelog.projection import Projection


def definition_hash(projection: Projection[Any, Any] | SqlProjection) -> str:
    """SHA-256 (hex) of the projection's definition. DefinitionError where its source is gone."""
    if isinstance(projection, SqlProjection):
        parts = _sql_parts(projection)
    else:
        parts = _fold_parts(projection)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _sql_parts(projection: SqlProjection) -> list[str]:
    return [
        projection.name,
        str(projection.version),
        # Not the contexts: the events of one that is new are written from the first on.
        projection.columns,
        *projection.indexes,
        module_code(projection.write),
    ]


def _fold_parts(projection: Projection[Any, Any]) -> list[str]:
    hints = typing.get_type_hints(projection.row, include_extras=True)
    parts = [
        projection.name,
        str(projection.version),
        projection.key,
        *(context.name for context in projection.contexts),
        *(f"{name}: {hint}" for name, hint in hints.items()),
        *(",".join(columns) for columns in projection.indexes),
        module_code(projection.evolve),
    ]
    if projection.keys is not None and projection.keys.__module__ != projection.evolve.__module__:
        parts.append(module_code(projection.keys))
    return parts


def module_code(function: Callable[..., Any]) -> str:
    """The syntax tree of the module that holds the function, without docstrings and places."""
    return _code_of(sys.modules[function.__module__])


@functools.cache
def _code_of(module: ModuleType) -> str:
    """Read once: what runs is what was there when the module was imported."""
    try:
        tree = ast.parse(inspect.getsource(module))
    except (OSError, TypeError) as error:
        raise DefinitionError(f"{module.__name__}: its source cannot be read: {error}") from error
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = _without_docstring(node.body)
    return ast.dump(tree)


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    match body:
        case [ast.Expr(value=ast.Constant(value=str())), *rest]:
            return rest
    return body
