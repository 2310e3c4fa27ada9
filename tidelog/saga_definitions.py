"""The list of sagas of a system, found by name: `module:NAME`.

The query service tells what an instance waits for, and needs the definitions for it; no service
imports another, so it is told by the setting `sagas` where the list is.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tidelog.errors import ConfigurationError
from tidelog.saga import Saga


def load_sagas(spec: str) -> Sequence[Saga[Any]]:
    """The sagas of `module:NAME`; ConfigurationError where that names no such list.

    The module is looked for in the working directory too, as `python -m` does. A system without
    sagas says so by an empty text.
    """
    if not spec:
        return ()
    module_name, _, name = spec.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError) as error:
        raise ConfigurationError(
            f"TIDELOG_SAGAS={spec}: {module_name} cannot be imported ({error}). Name the list as "
            "module:NAME, and run where the module can be found."
        ) from error
    found = getattr(module, name, None) if name else None
    if not isinstance(found, Sequence) or isinstance(found, str):
        raise ConfigurationError(
            f"TIDELOG_SAGAS={spec}: it names no list of sagas. It reads module:NAME."
        )
    for each in found:
        if not isinstance(each, Saga):
            raise ConfigurationError(f"TIDELOG_SAGAS={spec}: {each!r} is no saga.")
    return found
