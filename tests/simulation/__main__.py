"""`python -m tests.simulation SEED` replays a run; `--runs N [--from S]` runs many."""

from __future__ import annotations

import argparse
import sys
import time

from .bugs import BUGS
from .world import AS_IT_IS, Build, World


def main() -> int:
    """0 if every run held, 1 if one did not."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("seed", type=int, nargs="?", help="replay this run with a trace")
    parser.add_argument("--runs", type=int, default=1_000, help="how many runs")
    parser.add_argument("--from", type=int, default=0, dest="first", help="first seed")
    parser.add_argument("--bug", choices=sorted(BUGS), help="plant this bug")
    options = parser.parse_args()
    build = BUGS[options.bug] if options.bug else AS_IT_IS
    if options.seed is not None:
        return replay(options.seed, build)
    return run_many(range(options.first, options.first + options.runs), build)


def replay(seed: int, build: Build) -> int:
    """One run, step by step."""
    world = World(seed, build=build, tracing=True)
    try:
        world.run()
    except AssertionError as violation:
        print(f"seed {seed}: VIOLATION: {violation}")
        return 1
    recorded = world.checker.recorded
    print(f"seed {seed}: {world.scheduler.steps} steps, {recorded} commands recorded, all holds")
    return 0


def run_many(seeds: range, build: Build) -> int:
    """Many runs; the seeds that broke something are printed."""
    began, failed, steps, recorded = time.perf_counter(), 0, 0, 0
    for seed in seeds:
        world = World(seed, build=build)
        try:
            world.run()
        except Exception as violation:  # whatever it is, the seed is what counts
            failed += 1
            print(f"seed {seed}: {type(violation).__name__}: {violation}")
        steps += world.scheduler.steps
        recorded += world.checker.recorded
    seconds = time.perf_counter() - began
    print(
        f"{len(seeds)} runs, {failed} failed, {steps} steps, {recorded} commands recorded, "
        f"{len(seeds) / seconds:.0f} runs/s"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
