"""The list of projections of a system, found by name: `module:NAME`.

The command line and the query service need the same definitions as the projectors, and no service
imports another; so each is told by the setting `projections` where the list is.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from tidelog.errors import ConfigurationError, Unknown
from tidelog.postgres.sql_projection import SqlProjection
from tidelog.projection import Projection

AnyProjection: TypeAlias = Projection[Any, Any] | SqlProjection


def load_projections(spec: str) -> Sequence[AnyProjection]:
    """The projections of `module:NAME`; ConfigurationError where that names no such list.

    The module is looked for in the working directory too, as `python -m` does.
    """
    module_name, _, name = spec.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError) as error:
        raise ConfigurationError(
            f"TIDELOG_PROJECTIONS={spec}: {module_name} cannot be imported ({error}). Name the "
            "list as module:NAME, and run where the module can be found."
        ) from error
    found = getattr(module, name, None) if name else None
    if not isinstance(found, Sequence) or not found or isinstance(found, str):
        raise ConfigurationError(
            f"TIDELOG_PROJECTIONS={spec}: it names no list of projections. It reads module:NAME."
        )
    for each in found:
        if not isinstance(each, Projection | SqlProjection):
            raise ConfigurationError(f"TIDELOG_PROJECTIONS={spec}: {each!r} is no projection.")
    return found


def projection_named(projections: Iterable[AnyProjection], name: str) -> AnyProjection:
    """The projection of this name; Unknown where there is none, naming those that are."""
    known = {each.name: each for each in projections}
    if name not in known:
        raise Unknown(f"there is no projection {name}; there are {', '.join(sorted(known))}")
    return known[name]
