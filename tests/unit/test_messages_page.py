"""The reference page of the messages says what the code does."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from command_service.aggregates import AGGREGATES
from command_service.orders import (
    OrderAlreadyPlaced,
    OrderNeverPlaced,
    OrderNotReserved,
    orders,
)
from schemas import CONTEXTS, PUBLIC_COMMANDS
from schemas.orders import MarkOrderPaid, PlaceOrder
from tidelog.cli.docs import docs_app, messages_page, rules_of

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "messages.md"


def test_the_page_is_what_the_code_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == messages_page(AGGREGATES, PUBLIC_COMMANDS), (
        "docs/reference/messages.md is stale. Run: tidelog docs messages"
    )


def test_every_context_has_its_aggregate() -> None:
    assert [aggregate.context for aggregate in AGGREGATES] == list(CONTEXTS)


def test_every_message_says_what_it_means() -> None:
    for context in CONTEXTS:
        for message in (*context.command_types, *context.event_types):
            assert message.__doc__, message


def test_the_rules_of_a_command_are_those_on_its_way() -> None:
    rules = rules_of(orders)
    assert rules[PlaceOrder] == [OrderAlreadyPlaced]
    assert rules[MarkOrderPaid] == [OrderNeverPlaced, OrderNotReserved]


def test_check_writes_nothing_and_tells_a_stale_page_by_its_exit_code(
    tmp_path: Path,
) -> None:
    page = tmp_path / "messages.md"
    arguments = ["messages", "--output", str(page)]
    assert CliRunner().invoke(docs_app, [*arguments, "--check"]).exit_code == 1
    assert not page.exists()
    assert CliRunner().invoke(docs_app, arguments).exit_code == 0
    assert CliRunner().invoke(docs_app, [*arguments, "--check"]).exit_code == 0
