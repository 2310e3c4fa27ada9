"""R7: steps of sagas per second ÷ a naive Faust agent that does the same; and both under kills."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import msgspec
import psycopg

from bench.backends import backends_of
from bench.catch_up import Timing, caught_up
from bench.event_log import PARTITIONS, fresh_prefix, schema_of
from bench.peers.schemas import save_schemas
from bench.projecting import fresh_schema
from bench.rounds import WARM_UPS, Measure, Ratio
from bench.saga_log import Asked, CommandRecord, CommandTopics, expected, saga_log
from bench.sample import Sample
from bench.servers import HttpServer
from bench.stack import FOLDER, Stack, codec_of, service_environment
from bench.workers import SideSpec
from tidelog.codec import Codec
from tidelog.embedded.process import Launch, kill, spawn, tail

ORDERS, KILLED_ORDERS = 5_000, 1_000
COMMANDS_PER_ORDER = 6
KILLS_AT = (0.2, 0.45, 0.7)
"""Shares of the work after which the process is killed."""

LOOK_S = 0.02
PROGRESS_S = 120.0
QUIET_S, QUIET_AT_THE_END_S = 30.0, 10.0
"""When nothing has come for so long nothing comes any more: several sessions run out in it."""

OURS, TABLE, ROWS = "tidelog", "Faust, its own table", "Faust, a row per event"
FAUST = (sys.executable, "-m", "bench.peers.faust_saga", "worker", "-l", "warn")
FLOOR, GOAL = 3.0, 10.0


def measures(stack: Stack, _partitions: Sequence[int]) -> list[Measure]:
    """One measure, on four partitions; every round has a log of its own."""
    return [
        Measure(
            title=f"R7 steps of sagas, {ORDERS * COMMANDS_PER_ORDER:,} of {ORDERS:,} orders",
            partitions=PARTITIONS,
            sides=[
                SideSpec(label=OURS, make=our_side, arguments=(stack,)),
                SideSpec(label=TABLE, make=faust_side, arguments=(stack, "table")),
                SideSpec(label=ROWS, make=faust_side, arguments=(stack, "rows")),
            ],
            ratios=[Ratio(name="R7", ours=OURS, peers=(TABLE, ROWS), floor=FLOOR, goal=GOAL)],
            note="A step is a command in its topic. `lost` and `doubled` are of "
            f"{KILLED_ORDERS * COMMANDS_PER_ORDER:,} steps under {len(KILLS_AT)} SIGKILLs, in a "
            "second phase of each round; `resent` came again under the id that it had. The run "
            "fails where ours loses or doubles one.",
        )
    ]


@dataclass(frozen=True, kw_only=True)
class Program:
    """How a side is started on a log, and how its commands are read."""

    name: str
    launch: Callable[[str], Launch]
    """By the topic prefix. The schema of the prefix is there and empty."""
    read: Callable[[str, CommandRecord], tuple[str, Asked]]
    """By the topic prefix: the command's id, and what it asks for."""
    loses_nothing: bool = False


def our_side(stack: Stack) -> SagaSide:
    """The real process, as it is."""

    def launch(prefix: str) -> Launch:
        environment = {
            **service_environment(stack, prefix, PARTITIONS),
            "TIDELOG_POSTGRES_SCHEMA": schema_of(prefix),
        }
        command = (sys.executable, "-m", "sagas")
        return HttpServer("sagas", command, environment, "TIDELOG_HTTP_PORT", stack.folder).launch()

    codecs: dict[str, Codec] = {}

    def read(prefix: str, record: CommandRecord) -> tuple[str, Asked]:
        if prefix not in codecs:
            codecs.clear()
            codecs[prefix] = codec_of(stack, prefix)
        command = codecs[prefix].decode(record.value)
        subject = record.headers["ce_subject"].decode()
        order_id: str = command.order_id  # type: ignore[attr-defined]
        return record.headers["ce_id"].decode(), (type(command).__name__, subject, order_id)

    return SagaSide(stack, Program(name="sagas", launch=launch, read=read, loses_nothing=True))


def faust_side(stack: Stack, keeps: str) -> SagaSide:
    """The peer."""

    def launch(prefix: str) -> Launch:
        schema = schema_of(prefix)
        with psycopg.connect(stack.postgres, autocommit=True) as connection:
            connection.execute(f'CREATE SCHEMA IF NOT EXISTS "{schema}"'.encode())
            connection.execute(
                f'CREATE TABLE IF NOT EXISTS "{schema}".fulfilment '
                "(order_id text PRIMARY KEY, state jsonb NOT NULL)".encode()
            )
        folder = stack.folder / "peers" / f"{prefix}faust"
        folder.mkdir(parents=True, exist_ok=True)
        environment = {
            "BENCH_KAFKA": stack.kafka,
            "BENCH_PREFIX": prefix,
            "BENCH_PARTITIONS": str(PARTITIONS),
            "BENCH_GROUP": f"{prefix}faust",
            "BENCH_FOLDER": str(folder),
            "BENCH_SCHEMAS": str(save_schemas(stack, prefix)),
            "BENCH_DSN": stack.postgres,
            "BENCH_SCHEMA": schema,
            "BENCH_KEEPS": keeps,
        }
        return Launch(
            command=FAUST,
            log=folder / "log",
            environment={**os.environ, **environment},
            folder=FOLDER,
        )

    def read(_prefix: str, record: CommandRecord) -> tuple[str, Asked]:
        command = msgspec.json.decode(record.value)
        return command["id"], (command["command"], command["key"], command["order_id"])

    return SagaSide(stack, Program(name=f"faust-{keeps}", launch=launch, read=read))


class SagaSide:
    """A process that leads orders: undisturbed for the speed, then killed for the count."""

    def __init__(self, stack: Stack, program: Program) -> None:
        self._stack, self._program = stack, program
        self._backends = backends_of(stack)
        self._runs = count(1)

    def run(self, seconds: float) -> Sample:
        """Steps per second; in the rounds that count also what kills have lost and doubled."""
        with self._log(ORDERS) as (prefix, commands):
            launch = self._program.launch(prefix)
            total, timing = ORDERS * COMMANDS_PER_ORDER, Timing(seconds, self._backends)
            sample = caught_up(self._program.name, launch, commands.count, total, timing)
        if next(self._runs) > WARM_UPS:
            sample.extra.update(self._under_kills())
        return sample

    def close(self) -> None:
        """Nothing is left of a round."""

    def _under_kills(self) -> dict[str, float]:
        with self._log(KILLED_ORDERS) as (prefix, commands):
            launch = self._program.launch(prefix)
            total = KILLED_ORDERS * COMMANDS_PER_ORDER
            for share in KILLS_AT:
                process = spawn(launch)
                try:
                    _wait_for(commands, int(total * share), launch.log)
                finally:
                    kill(process)
            process = spawn(launch)
            try:
                _wait_for_the_end(commands, total)
            finally:
                kill(process)
            return self._count(prefix, commands)

    def _count(self, prefix: str, commands: CommandTopics) -> dict[str, float]:
        ids: dict[Asked, set[str]] = defaultdict(set)
        records = commands.read()
        for record in records:
            identity, asked = self._program.read(prefix, record)
            ids[asked].add(identity)
        wanted = expected(KILLED_ORDERS)
        lost, unasked = len(wanted - set(ids)), len(set(ids) - wanted)
        doubled = sum(len(each) - 1 for each in ids.values())
        assert not unasked, f"{unasked} commands that no order asks for"
        if self._program.loses_nothing:
            assert not lost and not doubled, f"{lost} steps were lost, {doubled} doubled"
        resent = len(records) - sum(len(each) for each in ids.values())
        return {"lost": lost, "doubled": doubled, "resent": resent}

    @contextmanager
    def _log(self, orders: int) -> Iterator[tuple[str, CommandTopics]]:
        prefix = fresh_prefix("r7")
        tables = fresh_schema(self._stack, schema_of(prefix))
        with tables, saga_log(self._stack, prefix, orders) as commands:
            yield prefix, commands
        for folder in (self._stack.folder / "state" / prefix, self._peer_folder(prefix)):
            shutil.rmtree(folder, ignore_errors=True)

    def _peer_folder(self, prefix: str) -> Path:
        return self._stack.folder / "peers" / f"{prefix}faust"


def _wait_for(commands: CommandTopics, wanted: int, log: Path) -> None:
    deadline = time.monotonic() + PROGRESS_S
    while commands.count() < wanted:
        assert time.monotonic() < deadline, f"{commands.count()} of {wanted} steps:\n{tail(log)}"
        time.sleep(LOOK_S)


def _wait_for_the_end(commands: CommandTopics, total: int) -> None:
    """Until nothing comes any more: all may be there and some come again, or some never come."""
    seen, at = commands.count(), time.monotonic()
    while time.monotonic() - at < (QUIET_S if seen < total else QUIET_AT_THE_END_S):
        time.sleep(LOOK_S)
        found = commands.count()
        if found != seen:
            seen, at = found, time.monotonic()
    assert seen, f"none of {total} steps was made"
