"""A seeded sample of runs holds; a seed always gives the same run."""

from __future__ import annotations

import pytest

from .world import World

RUNS_PER_TEST = 100


@pytest.mark.parametrize("first", range(0, 1_000, RUNS_PER_TEST))
def test_every_run_of_the_sample_holds(first: int) -> None:
    broken = []
    for seed in range(first, first + RUNS_PER_TEST):
        try:
            World(seed).run()
        except AssertionError as violation:
            broken.append(f"./dev sim {seed}  # {violation}")
    assert not broken, "\n".join(broken)


def test_the_same_seed_gives_the_same_run() -> None:
    def story(seed: int) -> tuple[int, float, int]:
        world = World(seed)
        world.run()
        return world.scheduler.steps, world.scheduler.now_ms, world.checker.recorded

    assert [story(seed) for seed in range(5)] == [story(seed) for seed in range(5)]


def test_the_sample_is_not_idle() -> None:
    """Most runs record commands, and crashes, failures and refusals happen in them."""
    worlds = [World(seed) for seed in range(30)]
    for world in worlds:
        world.run()
    assert sum(world.checker.recorded for world in worlds) > 150
    assert sum(world.group.generation for world in worlds) > 60
    assert sum(process.incarnation - 1 for world in worlds for process in world.processes) > 10
