"""The checker of the torture runs names every kind of damage that it is there for."""

from __future__ import annotations

from typing import Any

from tests.torture.checker import check_answers, check_sequences, check_versions
from tests.torture.log_reader import LogRecord


def record(sequence: int, version: int, key: str = "tea", command: str = "c-1") -> LogRecord:
    headers = {
        "ce_sequence": str(sequence),
        "ce_aggregateversion": str(version),
        "ce_source": "/inventory",
        "ce_type": "tidelog.inventory.StockReceived",
        "ce_causationid": command,
    }
    return LogRecord("inventory.events", 0, sequence * 2, key, headers, {})


def answer(sequence: int, key: str = "tea", kind: str = "StockReceived") -> dict[str, Any]:
    return {"id": key, "events": [{"type": kind, "position": f"inventory:0:{sequence}"}]}


def test_a_whole_log_has_no_faults() -> None:
    log = [record(1, 1), record(2, 2, command="c-2")]
    assert [*check_sequences(log), *check_versions(log)] == []
    assert check_answers(log, [answer(1), answer(2)]) == []


def test_a_gap_and_a_repetition_of_sequences_are_named() -> None:
    assert check_sequences([record(1, 1), record(3, 2)])
    assert check_sequences([record(1, 1), record(1, 2)])


def test_a_gap_and_a_repetition_of_versions_are_named() -> None:
    assert check_versions([record(1, 1), record(2, 3)])
    assert check_versions([record(1, 1), record(2, 1)])


def test_a_lost_a_doubled_and_a_misplaced_write_are_named() -> None:
    assert check_answers([], [answer(1)])
    assert check_answers([record(1, 1), record(2, 2)], [answer(1)])
    assert check_answers([record(1, 1, key="pot")], [answer(1)])
    assert check_answers([record(1, 1)], [answer(1, kind="StockSold")])
