"""What a definition is, as a hash: it changes when the code or the types change, not with comments.

Checkpoints and read models carry it, so that none is used with a definition that did not make it.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

from tidelog.aggregate import Aggregate


def aggregate_fingerprint(aggregate: Aggregate[Any, Any, Any]) -> str:
    """Hash of how the aggregate folds: its module's code, its state and its events' fields."""
    parts = [
        aggregate.name,
        repr(aggregate.initial),
        _code(aggregate.evolve),
        *(_fields(message) for message in (aggregate.state_type, *aggregate.context.event_types)),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _fields(message: type[Any]) -> str:
    hints = inspect.get_annotations(message)
    return f"{message.__name__}{sorted((name, str(hint)) for name, hint in hints.items())}"


def _code(function: Callable[..., Any]) -> str:
    """The module that holds the function, as its syntax tree without docstrings."""
    return _code_of(inspect.getmodule(function) or function)


@functools.cache
def _code_of(source: ModuleType | Callable[..., Any]) -> str:
    """Read once: every partition that is taken over asks for it."""
    tree = ast.parse(inspect.getsource(source))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and _is_docstring(body[0]):
            body[0] = ast.Pass()
    return ast.dump(tree)


def _is_docstring(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
