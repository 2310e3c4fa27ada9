"""A rebuild reads the log and writes tables: nothing that it is made of can write to the log."""

from __future__ import annotations

from pathlib import Path

from tests.unit.test_tidy import ROOT, imports_of, name_of

WRITERS = {
    "confluent_kafka.Producer",
    "tidelog.kafka.command_sender",
    "tidelog.kafka.transactions",
    "tidelog.kafka.owner",
}


def test_nothing_that_rebuilds_can_send_a_command_or_append_an_event() -> None:
    modules = {name_of(path): path for path in (ROOT / "tidelog").rglob("*.py")}
    reached: dict[str, Path] = {}
    pending = [name for name in modules if name.startswith("tidelog.rebuild")]
    assert len(pending) > 5
    while pending:
        name = pending.pop()
        if name in modules and name not in reached:
            reached[name] = modules[name]
            pending += imports_of(modules[name])

    for name, path in reached.items():
        writing = WRITERS & set(imports_of(path))
        assert not writing, f"{name} imports {sorted(writing)}"
