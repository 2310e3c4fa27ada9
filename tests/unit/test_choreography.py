"""The page of the choreography says what the definitions say, in Mermaid that can be read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from command_service.aggregates import AGGREGATES
from sagas.definitions import SAGAS
from sagas.fulfilment import fulfilment
from sagas.returns import returns
from schemas import CONTEXTS
from schemas.orders import CancelOrder, OrderCancellationRequested
from schemas.payments import PaymentCaptured, PaymentRefundRequested, RecordPaymentCaptured
from tidelog.choreography import (
    choreography_page,
    compensation_map,
    duration,
    links_of,
    message_graph,
    person_table,
    sequence_diagram,
)
from tidelog.cli.docs import causes_of, docs_app

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "choreography.md"

ID = r"[A-Za-z]\w*"
LABEL = r'(?:[A-Za-z][\w-]*|"[\w .:-]+")'
NODE = re.compile(rf"({ID})(?:\[{LABEL}\]|\(\[{LABEL}\]\))")
EDGE = re.compile(rf"({ID}) (?:-->|==>|-\.->)(?:\|(?:{LABEL}|[a-z ]+)\|)? ({ID})")
MESSAGE = re.compile(rf"({ID})(?:->>|-->>)({ID}): [A-Z]\w+")
COLOURS = r"stroke:#[0-9a-f]{6},color:#[0-9a-f]{6}"
RESERVED = {"end", "graph", "flowchart", "subgraph", "class", "style", "click", "default"}


def blocks(page: str) -> list[list[str]]:
    """The diagrams of the page, each as its lines."""
    return [found.splitlines() for found in re.findall(r"```mermaid\n(.*?)```", page, re.DOTALL)]


def check(lines: Sequence[str]) -> None:
    """Raise AssertionError where a line is not of the part of Mermaid that we draw with."""
    kind, *body = [line.strip() for line in lines]
    if kind == "sequenceDiagram":
        check_sequence(body)
    else:
        assert kind == "flowchart LR", kind
        check_flowchart(body)


def check_sequence(body: Sequence[str]) -> None:
    people: list[str] = []
    depth = 0
    for line in body:
        if match := re.fullmatch(rf"participant ({ID})(?: as [\w ()]+)?", line):
            people.append(match[1])
        elif match := MESSAGE.fullmatch(line):
            assert {match[1], match[2]} <= set(people), line
        elif match := re.fullmatch(rf"Note over ({ID}): [\w -]+", line):
            assert match[1] in people, line
        elif re.fullmatch(r"rect rgb\(\d{1,3}, \d{1,3}, \d{1,3}\)", line):
            depth += 1
        else:
            assert line == "end", line
            depth -= 1
            assert depth >= 0, "an end without a beginning"
    assert depth == 0, "a block is left open"
    assert len(people) == len(set(people)), people


def check_flowchart(body: Sequence[str]) -> None:
    nodes: set[str] = set()
    classes: set[str] = set()
    edges, depth = 0, 0
    for line in body:
        if match := NODE.fullmatch(line):
            nodes.add(match[1])
        elif match := EDGE.fullmatch(line):
            assert {match[1], match[2]} <= nodes, line
            edges += 1
        elif re.fullmatch(rf"subgraph {ID}", line):
            depth += 1
        elif match := re.fullmatch(
            r"linkStyle ([\d,]+) stroke:#[0-9a-f]{6},color:#[0-9a-f]{6}", line
        ):
            assert all(int(number) < edges for number in match[1].split(",")), line
        elif match := re.fullmatch(
            rf"classDef ({ID}) stroke:#[0-9a-f]{{6}},color:#[0-9a-f]{{6}}", line
        ):
            classes.add(match[1])
        elif match := re.fullmatch(rf"class ([\w,]+) ({ID})", line):
            assert set(match[1].split(",")) <= nodes and match[2] in classes, line
        else:
            assert line == "end", line
            depth -= 1
    assert depth == 0, "a subgraph is left open"
    assert not {node.lower() for node in nodes} & RESERVED


def test_the_page_is_what_the_definitions_say() -> None:
    page = choreography_page(SAGAS, CONTEXTS, causes_of(AGGREGATES))
    assert PAGE.read_text(encoding="utf-8") == page, (
        "docs/reference/choreography.md is stale. Run: tidelog docs choreography"
    )


def test_every_diagram_can_be_read() -> None:
    found = blocks(PAGE.read_text(encoding="utf-8"))
    assert len(found) == 1 + 2 * len(SAGAS)
    for lines in found:
        check(lines)


@pytest.mark.parametrize(
    "wrong",
    [
        ["sequenceDiagram", "participant a", "a->>b: Hello"],
        ["sequenceDiagram", "participant a", "rect rgb(1, 2, 3)"],
        ["sequenceDiagram", "participant a", "participant a"],
        ["flowchart LR", "a[a]", "a --> b"],
        ["flowchart LR", "end[end]"],
        ["flowchart LR", "a[a b: c]"],
        ["flowchart LR", "a[a]", "a --> a", "linkStyle 1 stroke:#000000,color:#000000"],
        ["pie"],
    ],
)
def test_the_check_of_diagrams_tells_what_cannot_be_read(wrong: list[str]) -> None:
    with pytest.raises(AssertionError):
        check(wrong)


def test_the_events_of_a_command_are_those_made_on_its_way() -> None:
    causes = causes_of(AGGREGATES)
    assert list(causes[CancelOrder]) == [OrderCancellationRequested]
    assert list(causes[RecordPaymentCaptured]) == [PaymentCaptured, PaymentRefundRequested]


def test_every_reaction_is_in_the_graph_and_the_failures_are_red() -> None:
    lines = [*message_graph(SAGAS, CONTEXTS, causes_of(AGGREGATES))]
    edges = [line.strip() for line in lines if EDGE.fullmatch(line.strip())]
    (style,) = [line for line in lines if "linkStyle" in line]
    red = [edges[int(number)] for number in style.split()[1].split(",")]

    assert len([edge for edge in edges if "==>" in edge]) == sum(
        len([*links_of(saga)]) for saga in SAGAS
    )
    assert len(red) == len(fulfilment.failures)
    assert all(edge.endswith("CancelOrder") for edge in red)


def test_a_process_is_drawn_as_it_should_go_then_what_turns_it_round() -> None:
    lines = [line.strip() for line in sequence_diagram(fulfilment, CONTEXTS)]
    begin = next(number for number, line in enumerate(lines) if line.startswith("rect"))

    assert "orders-->>saga: OrderDelivered" in lines[:begin]
    assert not any("CancelOrder" in line for line in lines[:begin])
    assert any("CancelOrder" in line for line in lines[begin:])
    assert lines.count("saga->>returns: FailReturn") == 0
    ordered = [line.strip() for line in sequence_diagram(returns, CONTEXTS)]
    assert ordered.count("saga->>returns: FailReturn") == 5


def test_compensations_are_drawn_from_the_last_step_to_the_first() -> None:
    chain = [line.strip() for line in compensation_map(fulfilment) if "==>" in line]

    assert chain == [
        "cancel_shipment ==> void_payment",
        "void_payment ==> give_stock_back",
        "give_stock_back ==> complete_cancellation",
    ]


def test_what_a_person_may_decide_is_told_of_each_saga() -> None:
    told = list(person_table(returns))

    assert "| skip `refund` | paid back elsewhere |" in told
    assert "| compensate | `FailReturn` |" in told
    assert not any("`approve`" in line for line in told), "only the return can approve itself"


def test_times_are_told_in_their_largest_whole_unit() -> None:
    assert duration(timedelta(days=30)) == "30 days"
    assert duration(timedelta(hours=1)) == "1 hour"
    assert duration(timedelta(minutes=90)) == "90 minutes"
    assert duration(timedelta(seconds=61)) == "61 seconds"


def test_check_writes_nothing_and_tells_a_stale_page_by_its_exit_code(tmp_path: Path) -> None:
    page = tmp_path / "choreography.md"
    arguments = ["choreography", "--output", str(page)]
    assert CliRunner().invoke(docs_app, [*arguments, "--check"]).exit_code == 1
    assert not page.exists()
    assert CliRunner().invoke(docs_app, arguments).exit_code == 0
    assert CliRunner().invoke(docs_app, [*arguments, "--check"]).exit_code == 0
