"""Holds the log against what clients were told; names lost, doubled, torn or misplaced writes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tests.torture.log_reader import LogRecord


def check_sequences(records: Iterable[LogRecord]) -> list[str]:
    """Per partition: ce_sequence counts 1, 2, 3, … in offset order."""
    faults = []
    last: dict[tuple[str, int], int] = defaultdict(int)
    for record in records:
        place = (record.topic, record.partition)
        sequence = int(record.headers["ce_sequence"])
        if sequence != last[place] + 1:
            faults.append(f"{place}: sequence {sequence} after {last[place]} at {record.offset}")
        last[place] = sequence
    return faults


def check_log(records: Sequence[LogRecord], answers: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is lost, doubled, torn or out of order in the log."""
    return [*check_sequences(records), *check_versions(records), *check_answers(records, answers)]


def check_versions(records: Iterable[LogRecord]) -> list[str]:
    """Per aggregate: ce_aggregateversion counts 1, 2, 3, …."""
    faults = []
    last: dict[tuple[str, str], int] = defaultdict(int)
    for record in records:
        aggregate = (record.topic, record.key)
        version = int(record.headers["ce_aggregateversion"])
        if version != last[aggregate] + 1:
            faults.append(f"{aggregate}: version {version} after {last[aggregate]}")
        last[aggregate] = version
    return faults


def check_answers(records: Iterable[LogRecord], answers: Iterable[Mapping[str, Any]]) -> list[str]:
    """Every acknowledged command's events are in the log exactly once, contiguous and in order."""
    by_position: dict[str, LogRecord] = {}
    by_command: dict[str, list[str]] = defaultdict(list)
    for record in records:
        context = record.headers["ce_source"].removeprefix("/")
        position = f"{context}:{record.partition}:{record.headers['ce_sequence']}"
        by_position[position] = record
        by_command[record.headers["ce_causationid"]].append(position)
    faults = []
    for answer in answers:
        faults += _check_answer(answer, by_position, by_command)
    return faults


def _check_answer(
    answer: Mapping[str, Any],
    by_position: Mapping[str, LogRecord],
    by_command: Mapping[str, list[str]],
) -> list[str]:
    positions = [event["position"] for event in answer["events"]]
    missing = [position for position in positions if position not in by_position]
    if missing:
        return [f"{answer['id']}: acknowledged, but not in the log: {missing}"]
    first = by_position[positions[0]]
    types = [by_position[position].headers["ce_type"].rsplit(".", 1)[1] for position in positions]
    faults = []
    if first.key != answer["id"]:
        faults.append(f"{answer['id']}: its event lies under {first.key}")
    if types != [event["type"] for event in answer["events"]]:
        faults.append(f"{answer['id']}: told {answer['events']}, the log has {types}")
    if by_command[first.headers["ce_causationid"]] != positions:
        faults.append(f"{answer['id']}: its command is in the log more than once")
    return faults
