"""Given a running system, when commands manage its read models, then they do what they say.

The commands run as processes, as people run them; one is killed at random points.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.log_writer import until
from tests.rebuild_world import NAME, BulkWorld, bulk, bulk_registry, bulk_workers
from tests.service_process import ROOT, children_of

__all__ = ["bulk", "bulk_registry", "bulk_workers"]

TIMEOUT_S = 120.0
KILLS = 5


def started(bulk: BulkWorld, *arguments: str) -> subprocess.Popen[str]:
    """`tidelog …` as a process."""
    inherited = {name: each for name, each in os.environ.items() if not name.startswith("TIDELOG_")}
    settings = {
        "KAFKA_BOOTSTRAP_SERVERS": bulk.site.bootstrap_servers,
        "REGISTRY_URL": bulk.site.registry_url,
        "POSTGRES_DSN": bulk.site.dsn,
        "POSTGRES_SCHEMA": bulk.site.schema,
        "TOPIC_PREFIX": bulk.site.topic_prefix,
        "PROJECTIONS": f"{NAME}:PROJECTIONS",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "tidelog.cli", *arguments, "--json"],
        cwd=ROOT,
        env={**inherited, **{f"TIDELOG_{name}": each for name, each in settings.items()}},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(bulk: BulkWorld, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """The exit code, the JSON on stdout, and what stands on stderr."""
    process = started(bulk, *arguments)
    out, said = process.communicate(timeout=TIMEOUT_S)
    return process.returncode, json.loads(out) if out else {}, said


def test_a_rebuild_that_is_killed_again_and_again_ends_where_one_that_is_not_ends(
    bulk: BulkWorld,
) -> None:
    seed = random.randrange(1_000_000)
    print(f"seed {seed}")
    chosen = random.Random(seed)
    bulk.append_some(6_000, keys=1_500, failing=0.0005)
    with bulk.projectors():
        bulk.caught_up()
        with flowing(bulk):
            for _ in range(KILLS):
                process = started(bulk, "projection", "rebuild", "counter", "--rows-max", "100")
                kill_after_lines(process, chosen.randrange(0, 8))
                assert bulk.query("SELECT count(*) FROM {s}.counter")[0][0] > 0, (
                    "the old one serves"
                )

            code, done, said = run(bulk, "projection", "rebuild", "counter")
            assert (code, done.get("switched")) == (0, True), said
        bulk.caught_up()

        code, proof, said = run(bulk, "projection", "verify", "counter")
        assert (code, proof.get("equal")) == (0, True), (proof, said)
    assert bulk.view() == f"counter__v1_g{done['generation']}"
    unfinished = bulk.query("SELECT 1 FROM {s}.rebuilds WHERE status <> 'switched'")
    assert unfinished == []


def kill_after_lines(process: subprocess.Popen[str], lines: int) -> None:
    """SIGKILL once it has said so much; where it says less it has ended."""
    assert process.stderr is not None and process.stdout is not None
    for _ in range(lines):
        if not process.stderr.readline():
            break
    process.kill()
    process.wait(TIMEOUT_S)
    process.stderr.close()
    process.stdout.close()


def test_ctrl_c_leaves_a_rebuild_that_goes_on(bulk: BulkWorld) -> None:
    bulk.append_some(3_000, keys=500)
    process = started(bulk, "projection", "rebuild", "counter", "--workers", "2")
    assert process.stderr is not None
    # Its workers are made before it does anything: held up, so that the load goes on long enough.
    until(lambda: len(children_of(process.pid)) == 2, "it has its workers")
    workers = children_of(process.pid)
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)
    while '"load"' not in process.stderr.readline():
        assert process.poll() is None, "it loads"
    process.send_signal(signal.SIGINT)
    for worker in workers:
        os.kill(worker, signal.SIGCONT)
    _, said = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 1
    assert "rebuild counter` goes on" in said

    code, done, said = run(bulk, "projection", "rebuild", "counter")

    assert (code, done.get("switched")) == (0, True), said
    assert done["generation"] == 1


def test_of_two_starts_at_once_one_works_and_the_other_says_so(bulk: BulkWorld) -> None:
    bulk.append_some(1_000)
    both = [started(bulk, "projection", "rebuild", "counter") for _ in range(2)]
    ended = [process.communicate(timeout=TIMEOUT_S) for process in both]

    codes = sorted(process.returncode for process in both)
    assert codes in ([0, 1], [0, 0]), ended
    if codes == [0, 1]:
        assert any("being worked on by" in said for _, said in ended), ended
    assert len(bulk.tables()) == codes.count(0)


def test_the_results_have_their_documented_form(bulk: BulkWorld) -> None:
    bulk.append_some(500)

    code, plan, _ = run(bulk, "projection", "rebuild", "counter", "--dry-run")
    assert (code, plan["events"], plan["table"]) == (0, 500, "counter__v1_g1")
    code, done, _ = run(bulk, "projection", "rebuild", "counter")
    assert code == 0
    assert {"projection", "generation", "events", "seconds", "switched"} <= done.keys()
    code, listed, _ = run(bulk, "projection", "list")
    assert code == 0
    (row,) = [each for each in listed["items"] if each["name"] == "counter"]
    assert {
        "name", "version", "generation", "table", "positions", "lag", "lag_seconds", "status"
    } <= row.keys()  # fmt: skip
    assert (row["table"], row["lag"]) == ("counter__v1_g1", 0)
    code, proof, _ = run(bulk, "projection", "verify", "counter")
    assert code == 0
    assert {
        "projection", "equal", "rows", "positions", "parked", "first_difference"
    } <= proof.keys()  # fmt: skip
    assert sum(proof["positions"].values()) == 500
    bulk.query("UPDATE {s}.counter__v1_g1 SET total = 1000000 WHERE counter_id = 'c-1'")
    code, proof, _ = run(bulk, "projection", "verify", "counter")
    assert (code, proof["first_difference"]["key"]) == (1, "c-1")


def test_a_key_that_nobody_knows_is_not_proved(bulk: BulkWorld) -> None:
    bulk.append_some(200)
    bulk.rebuild(prove=False)

    code, proof, said = run(bulk, "projection", "verify", "counter", "--key", "c-1")
    assert (code, proof["equal"], proof["rows"]) == (0, True, 1), said
    code, proof, said = run(bulk, "projection", "verify", "counter", "--key", "c-l")

    assert (code, proof) == (1, {})
    assert "counter__v1_g1 has no row with the key c-l, and the log makes none" in said

    bulk.query("DELETE FROM {s}.counter__v1_g1 WHERE counter_id = 'c-1'")
    code, proof, said = run(bulk, "projection", "verify", "counter", "--key", "c-1")
    assert (code, proof["equal"], proof["rows"], proof["differing"]) == (1, False, 0, 1), said


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("projection", "rebuild", "nothing"), 1, "there is no projection nothing"),
        (("projection", "verify", "nothing"), 1, "there is no projection nothing"),
        (("projection", "verify", "counter"), 1, "has no table yet"),
        (("projection", "verify"), 2, "--all"),
        (("projection", "rollback", "counter"), 1, "no generation that served before"),
        (("projection", "rebuild", "counter", "--cancel"), 1, "no rebuild of counter"),
        (("replay", "nothing", "--into", "x"), 1, "there is no projection nothing"),
        (("replay", "counter", "--into", "X!"), 1, "is no label"),
        (
            ("replay", "counter", "--into", "x", "--from", "counters:0:9", "--to", "counters:0:3"),
            1,
            "runs backwards",
        ),
        (("replay", "counter", "--into", "x", "--to", "counters:0:99999"), 1, "beyond the end"),
        (("replay", "counter", "--into", "x", "--from", "yesterday"), 1, "neither positions"),
        (("replay", "counter", "--into", "x", "--drop"), 1, "there is no counter__scratch_x"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, tuple) else "",
)
def test_what_cannot_be_done_is_refused_in_clear_text_and_changes_nothing(
    crowded: BulkWorld, arguments: tuple[str, ...], code: int, text: str
) -> None:
    found, result, said = run(crowded, *arguments)

    assert (found, result) == (code, {}), said
    assert text in said
    assert crowded.tables() == []


@pytest.fixture
def crowded(bulk: BulkWorld) -> BulkWorld:
    """A log of some length."""
    bulk.append_some(200)
    return bulk


@contextmanager
def flowing(bulk: BulkWorld) -> Iterator[None]:
    """Events that come all the time."""
    stopping = threading.Event()

    def flow() -> None:
        while not stopping.wait(0.05):
            bulk.append_some(20, keys=1_500)

    thread = threading.Thread(target=flow)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join(30)
