"""Given an event that cannot be folded, when people decide, then its row alone waits.

On a real broker and a real database: the key is parked at once and tried again by itself, all other
rows stay current, and in the end the tables are the pure fold of the log and the decisions.
"""

from __future__ import annotations

import base64
import os
import random
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg

from tests.integration.parking_process import PROJECTIONS, Ledger, ledger, total
from tests.integration.parking_world import Process, World, world
from tests.log_writer import read_log, until
from tidelog import Position

__all__ = ["world"]

POISON = 13
SEED = int(os.environ.get("PARKING_SEED", "7"))
"""What the kills and failures are drawn from."""


def test_a_poison_event_parks_its_rows_and_holds_up_no_other(world: World) -> None:
    world.break_on(POISON)
    with world.running():
        world.add("poisoned", 2, POISON, 4, 6)
        for number in range(20):
            world.add(f"well-{number}", 2)
        world.until_caught_up()

        parked = until(
            lambda: {at: n for at, n in world.parked().items() if n[0] > 1},
            "it is tried again by itself",
        )
        assert ("ledger", "poisoned") in world.parked()
        assert ("total", "1") in world.parked()
        assert len(world.parked()) == 2 and parked
        assert world.parked()["ledger", "poisoned"][1] == 2
        rows = world.rows(ledger)
        assert rows["poisoned"].row == Ledger(counter_id="poisoned", taken=(2,))
        assert all(rows[f"well-{n}"].row.taken == (2,) for n in range(20))


def test_after_the_cure_a_retry_folds_what_waited_in_order(world: World) -> None:
    world.break_on(POISON)
    with world.running():
        world.add("poisoned", 2, POISON, 4, 6)
        until(lambda: len(world.parked()) == 2, "both rows are parked")
        world.break_on()
        for projection, key in ((ledger, "poisoned"), (total, "1")):
            if (projection.name, key) in world.parked():
                world.ask(projection, key)
        world.add("poisoned", 8)
        until(lambda: not world.parked(), "nothing is parked any more")
        world.until_caught_up()
    assert world.rows(ledger)["poisoned"].row.taken == (2, POISON, 4, 6, 8)
    for each in PROJECTIONS:
        assert world.rows(each) == world.folded(each)


def test_a_discarded_event_is_left_out_of_the_row_and_of_every_later_fold(world: World) -> None:
    world.break_on(POISON)
    with world.running():
        poison = world.add("poisoned", 2, POISON, 4)[1]
        until(lambda: len(world.parked()) == 2, "both rows are parked")
        world.decide(ledger, poison)
        world.decide(total, poison)
        until(lambda: not world.parked(), "nothing is parked any more")
        world.until_caught_up()
    assert world.rows(ledger)["poisoned"].row.taken == (2, 4)
    assert world.rows(ledger)["poisoned"].version == 3
    for each in PROJECTIONS:
        assert world.rows(each) == world.folded(each)


def test_an_edited_event_counts_as_it_was_edited(world: World) -> None:
    world.break_on(POISON)
    with world.running():
        poison = world.add("poisoned", 2, POISON, 4)[1]
        until(lambda: len(world.parked()) == 2, "both rows are parked")
        for each in PROJECTIONS:
            world.decide(each, poison, '{"counter_id":"poisoned","by":15}')
        until(lambda: not world.parked(), "nothing is parked any more")
        world.until_caught_up()
    assert world.rows(ledger)["poisoned"].row.taken == (2, 15, 4)
    for each in PROJECTIONS:
        assert world.rows(each) == world.folded(each)


def test_a_start_with_mended_code_tries_every_key_at_once(world: World) -> None:
    world.break_on(POISON)
    with world.running():
        world.add("poisoned", POISON, 4)
        until(lambda: len(world.parked()) == 2, "both rows are parked")
    world.query("UPDATE {s}.parked_keys SET next_attempt_at = NULL RETURNING 1")
    world.break_on()
    with world.running():
        until(lambda: not world.parked(), "nothing is parked any more")
    for each in PROJECTIONS:
        assert world.rows(each) == world.folded(each)


def test_a_record_that_has_become_readable_is_parked_no_more(world: World) -> None:
    with world.running():
        world.add("a", 1)
        world.log.append_raw(0, b"not ours")
        world.until_caught_up()
        until(lambda: world.query("SELECT 1 FROM {s}.parked_records"), "it is parked")
    # As an outdated projector leaves it behind: an event that it could not read.
    (value,) = world.query("SELECT 1")  # the schema is there
    assert value == (1,)
    at = world.log.partition("a")
    (found,) = [
        record
        for record in read_log(
            world.settings.kafka_bootstrap_servers, world.log.topic, world.log.partitions
        )[at]
        if record.headers
    ]
    with psycopg.connect(world.settings.postgres_dsn, autocommit=True) as connection:
        park_as_unread(connection, world.settings.postgres_schema, at, found)
    assert len(world.query("SELECT 1 FROM {s}.parked_records")) == 2
    with world.running():
        until(
            lambda: len(world.query("SELECT 1 FROM {s}.parked_records")) == 1,
            "what can be read is let go, what cannot stays",
        )


def park_as_unread(connection: Any, schema: str, at: int, record: Any) -> None:
    headers = [
        [name, None if value is None else base64.b64encode(value).decode()]
        for name, value in record.headers
    ]
    connection.execute(
        f'INSERT INTO "{schema}".parked_records (context, partition, topic_id, "offset", '
        "sequence, fork, reason, key, value, headers) "
        "VALUES ('counters', %s, 'topic', %s, 0, false, 'outdated', %s, %s, %s)".encode(),
        (at, record.offset, record.key, record.value, psycopg.types.json.Jsonb(headers)),
    )


def test_kills_between_failures_and_retries_lose_and_double_nothing(
    world: World, tmp_path: Path
) -> None:
    """SIGKILL of the projectors, at random moments, while values fail and are mended."""
    chance = random.Random(SEED)
    with ExitStack() as stack:
        processes = [Process(world, tmp_path, number) for number in range(2)]
        for process in processes:
            stack.callback(process.kill)
            process.start()
        world.add("k-0", 1)
        until(world.caught_up, "the projectors have begun", 60)
        for round_number in range(12):
            world.break_on(*chance.sample(range(10), 3))
            for _ in range(30):
                key = f"k-{chance.randrange(6)}"
                world.add(key, *(chance.randrange(10) for _ in range(4)))
            if chance.random() < 0.3:
                decide_on_one(world, chance)
            if round_number % 2:
                victim = chance.choice(processes)
                victim.kill()
                victim.start()
            time.sleep(chance.random() * 0.5)  # the traffic's pace: nothing is asserted on it
        world.break_on()
        until(world.caught_up, "the read models are at the end of the log", 120)
        processes[0].kill()
        processes[0].start()  # a start tries all
        world.until_heeded()
        until(lambda: not world.parked(), "nothing is parked any more", 120)
    for each in PROJECTIONS:
        assert world.rows(each) == world.folded(each)


def decide_on_one(world: World, chance: random.Random) -> None:
    found = world.query(
        "SELECT projection, key, partition, sequence FROM {s}.parked_keys "
        "WHERE projection = 'ledger' ORDER BY key"
    )
    if found:
        _, key, number, sequence = chance.choice(found)
        replacement = None if chance.random() < 0.5 else f'{{"counter_id":"{key}","by":100}}'
        world.decide(ledger, Position("counters", number, sequence), replacement)
