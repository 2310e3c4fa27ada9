"""What a run of `dependencies` has seen, as tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gateway.app import ANSWER_MARGIN_S, QUERY_WAIT_S_MAX
from gateway.services import BREAKER
from tests.torture.breaker_watch import Figures
from tests.torture.dependencies import PROVIDER, Fallen, Result
from tests.torture.route_needs import Needs, Question
from tidelog.settings import Settings


def describe(result: Result) -> str:
    """Each route, then each kind of route, then the breakers."""
    return "\n\n".join(
        (
            _table(["route", *_titles(result)], _route_rows(result)),
            _table(["what is asked", *_titles(result)], _kind_rows(result)),
            _table(["breaker", "opened after the fall", "closed after the return", "set so"],
                   _breaker_rows(result)),
            "\n".join(
                f"{fallen.fault}: every route is answered {fallen.healed_s:.1f} s after its return"
                for fallen in result.fallen
            ),
            f"{len(result.asked)} routes and commands, {len(result.faults)} faults",
        )
    )  # fmt: skip


def _titles(result: Result) -> list[str]:
    return [str(fallen.fault) for fallen in result.fallen]


def _route_rows(result: Result) -> Iterator[list[str]]:
    for question in result.asked:
        yield [f"`{question.row}`", *(each.cell(question.row) for each in result.fallen)]


def _kind_rows(result: Result) -> Iterator[list[str]]:
    kinds: dict[Needs, list[Question]] = {}
    for question in result.asked:
        kinds.setdefault(question.needs, []).append(question)
    for needs, asked in kinds.items():
        parts = ", ".join(sorted(needs.parts)) or "nothing"
        kind = f"{needs.why} ({len(asked)}; needs {parts})"
        yield [kind, *(_cell(asked, each) for each in result.fallen)]


def _cell(asked: Sequence[Question], fallen: Fallen) -> str:
    """All that was answered to routes of one kind, the commonest first."""
    cells = [fallen.cell(question.row) for question in asked]
    return " / ".join(sorted(set(cells), key=lambda cell: (-cells.count(cell), cell)))


def _breaker_rows(result: Result) -> Iterator[list[str]]:
    for fallen in result.fallen:
        for figures in fallen.breakers:
            yield [
                f"{figures.name}, which {'hangs' if fallen.fault.hangs else 'is gone'}",
                _seconds(figures.opened_s),
                _seconds(figures.closed_s),
                _setting(figures, hangs=fallen.fault.hangs),
            ]


def _setting(figures: Figures, *, hangs: bool) -> str:
    """What the settings promise of this breaker."""
    settings = Settings()
    if figures.name == PROVIDER:
        failure_s = settings.effect_timeout_ms / 1_000
        calls, open_s = settings.breaker_calls_min, settings.breaker_open_ms / 1_000
    else:
        failure_s = max(settings.command_timeout_ms / 1_000, QUERY_WAIT_S_MAX) + ANSWER_MARGIN_S
        calls, open_s = BREAKER.calls_min, BREAKER.open_s
    took = f"{failure_s:g} s each" if hangs else "at once each"
    return f"opens at {calls} failed calls ({took}); tries again every {open_s:g} s"


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.1f} s"


def _table(head: Sequence[str], rows: Iterator[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
