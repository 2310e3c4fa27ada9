"""The simulation finds what it is for: each planted bug, within so many seeds.

The seed that shows the bug holds with the engine as it is, under the very same faults.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from .bugs import BUGS, SEEDS_MAX
from .world import AS_IT_IS, Build, World


def _violation(seed: int, build: Build) -> str | None:
    try:
        World(seed, build=build).run()
    except AssertionError as violation:
        return str(violation) or "an assertion of the engine"
    return None


@pytest.mark.parametrize("name", SEEDS_MAX)
def test_the_planted_bug_is_found(name: str) -> None:
    found = next(
        (seed for seed in range(SEEDS_MAX[name]) if _violation(seed, BUGS[name])),
        None,
    )
    assert found is not None, f"{name} was not found within {SEEDS_MAX[name]} seeds"
    sound = replace(AS_IT_IS, emphasis=BUGS[name].emphasis)
    assert _violation(found, sound) is None
