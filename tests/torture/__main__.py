"""`./dev torture`: starts a system of its own, tortures it, and says what it has seen.

./dev torture kills --kills 20 --clients 16 --seed 1
./dev torture instances --kills 20 --clients 32 --pause 60
./dev torture read-side --kills 100 --seed 1
./dev torture restore
./dev torture rebuild --events 1000000 --rate 500
./dev torture sagas --orders 2000 --failures 0.2 --kills 30 --seed 1
./dev torture outage --outage 120 --trickle 2
./dev torture dependencies
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path

from tests.torture import (
    dependencies,
    dependency_table,
    instances,
    kills,
    read_side,
    read_side_rebuild,
    read_side_restore,
    saga_outage,
    saga_run,
)
from tests.torture.system import system
from tidelog.settings import Settings

INSTANCES = 3
CLIENTS = 16


def main() -> int:
    """Exit 0 where nothing was lost, doubled or torn; 1 otherwise."""
    arguments = _parser().parse_args()
    print(f"seed {arguments.seed}", flush=True)
    text, faults = RUNS[arguments.what](arguments)
    print(text)
    for fault in faults[:20]:
        print(f"FAULT {fault}")
    return 1 if faults else 0


def _kills(arguments: argparse.Namespace) -> tuple[str, list[str]]:
    with system(arguments.dev) as dev_file:
        run = kills.Run(dev_file, arguments.seed, arguments.kills, arguments.clients or CLIENTS)
        result = asyncio.run(run.play())
    return kills.describe(result), result.faults


def _instances(arguments: argparse.Namespace) -> tuple[str, list[str]]:
    with system(arguments.dev, scale={instances.SERVICE: INSTANCES}) as dev_file:
        clients = arguments.clients or instances.CLIENTS
        result = instances.play(dev_file, arguments.seed, arguments.kills, clients, arguments.pause)
    return instances.describe(result, clients, Settings()), result.faults


def _read_side(arguments: argparse.Namespace) -> tuple[str, list[str]]:
    with system(arguments.dev) as dev_file:
        run = read_side.ReadSideRun(
            dev_file,
            arguments.seed,
            arguments.kills,
            arguments.clients or CLIENTS,
            arguments.rate,
        )
        result = asyncio.run(run.play())
    return read_side.describe(result), result.faults


def _restore(arguments: argparse.Namespace) -> tuple[str, list[str]]:
    result = read_side_restore.play(arguments.seed, arguments.rate, arguments.seconds)
    return read_side_restore.describe(result), result.faults


def _rebuild(arguments: argparse.Namespace) -> tuple[str, list[str]]:
    result = read_side_rebuild.play(
        arguments.seed,
        arguments.events,
        arguments.rate,
        arguments.lines,
        arguments.projection,
    )
    return read_side_rebuild.describe(result), result.faults


def _sagas(arguments: argparse.Namespace) -> tuple[str, list[str]]:
    plan = saga_run.Plan(
        seed=arguments.seed,
        orders=arguments.orders,
        rate=arguments.order_rate,
        failures=arguments.failures,
        kills=arguments.kills,
        postgres_kills=arguments.postgres_kills,
        kafka_kills=arguments.kafka_kills,
        bound_s=arguments.bound,
    )
    with system(arguments.dev) as dev_file:
        result = asyncio.run(saga_run.SagaRun(dev_file, plan).play())
    return saga_run.describe(result), result.faults


def _outage(arguments: argparse.Namespace) -> tuple[str, list[str]]:
    with system(arguments.dev) as dev_file:
        run = saga_outage.OutageRun(
            dev_file, arguments.seed, arguments.trickle, arguments.outage, arguments.bound
        )
        result = asyncio.run(run.play())
    return saga_outage.describe(result), result.faults


def _dependencies(arguments: argparse.Namespace) -> tuple[str, list[str]]:
    with system(arguments.dev) as dev_file:
        result = asyncio.run(dependencies.DependencyRun(dev_file).play())
    return dependency_table.describe(result), result.faults


RUNS = {
    "kills": _kills,
    "instances": _instances,
    "read-side": _read_side,
    "restore": _restore,
    "rebuild": _rebuild,
    "sagas": _sagas,
    "outage": _outage,
    "dependencies": _dependencies,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./dev torture", description=__doc__)
    parser.add_argument(
        "what",
        choices=[*RUNS],
        help="kills: of the command service; instances: of one of three of them, after restarts of "
        "each in turn, and then a pause of one; read-side: of projectors, PostgreSQL and Kafka; "
        "restore: PostgreSQL from an older backup; rebuild: a long one, under load; "
        "sagas: orders, while what leads them is killed and the world outside misbehaves; "
        "outage: of the payment provider, for minutes; dependencies: every public route, while one "
        "part after the other does not answer",
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument(
        "--clients", type=int, help=f"default: {CLIENTS}, and {instances.CLIENTS} of instances"
    )
    parser.add_argument(
        "--pause", type=float, default=instances.PAUSE_S, help="seconds of SIGSTOP (instances)"
    )
    parser.add_argument("--rate", type=float, default=300, help="commands a second")
    parser.add_argument("--seconds", type=float, default=10, help="of load on each side (restore)")
    parser.add_argument("--events", type=int, default=1_000_000, help="in the log (rebuild)")
    parser.add_argument("--lines", type=int, default=20, help="commands in a request (rebuild)")
    parser.add_argument("--projection", default="order_detail", help="which one (rebuild)")
    parser.add_argument("--orders", type=int, default=2_000, help="to be placed (sagas)")
    parser.add_argument("--order-rate", type=float, default=20, help="orders a second (sagas)")
    parser.add_argument(
        "--failures", type=float, default=0.2, help="share of calls outside that fail (sagas)"
    )
    parser.add_argument("--postgres-kills", type=int, default=3, help="of PostgreSQL (sagas)")
    parser.add_argument("--kafka-kills", type=int, default=2, help="of the broker (sagas)")
    parser.add_argument(
        "--bound", type=float, default=900, help="seconds to an order's end (sagas)"
    )
    parser.add_argument("--outage", type=float, default=120, help="seconds (outage)")
    parser.add_argument("--trickle", type=float, default=2, help="orders a second (outage)")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--dev", type=Path, help="dev.json of a running system")
    return parser


if __name__ == "__main__":
    sys.exit(main())
