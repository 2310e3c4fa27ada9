"""Given the gateway's routes, each says what it needs, and what falls without need is told."""

from __future__ import annotations

from gateway.routes import COMMANDS, Access, RoutedPath, Upstream
from tests.torture.breaker_watch import Figures
from tests.torture.dependencies import Answered, Fallen, Fault, judged
from tests.torture.route_needs import (
    COMMAND,
    DECIDED,
    NEEDS,
    QUERY_SERVICE,
    READ,
    Made,
    Question,
    public_paths,
    questions,
    unexpected,
)

ORDER = Question("GET /orders/{id}", READ, "GET", "/orders/o-1")
PLACE = Question("POST /orders/{id}/place-order", DECIDED, "POST", "/orders/o-1/place-order")


def test_every_route_of_the_gateway_has_its_needs_and_a_question() -> None:
    paths = public_paths()
    assert unexpected(paths) == []
    asked = questions(paths, {name: {} for name in COMMANDS}, Made("o-1", "op-1"), "fresh")
    # each path once; the commands one by one, and one of them queued
    assert len(asked) == len(paths) - 1 + len(COMMANDS) + 1
    assert len({question.row for question in asked}) == len(asked)
    assert not any("{" in question.path for question in asked)


def test_a_route_that_nobody_has_thought_of_is_told() -> None:
    new = RoutedPath("GET", "/new/{id}", Upstream.QUERIES, Access(frozenset()))
    assert unexpected([*public_paths(), new]) == ["GET /new/{id}"]
    assert COMMAND in NEEDS


def fallen(order: Answered, place: Answered) -> Fallen:
    answers = {ORDER.row: order, PLACE.row: place}
    return Fallen(Fault(QUERY_SERVICE, hangs=True), answers, dict(answers))


def test_a_route_that_falls_without_need_is_a_fault_and_one_that_needs_what_fell_is_none() -> None:
    order, good = Answered(504, 15.0), Answered(201, 0.01)
    assert judged([ORDER, PLACE], fallen(order, good)) == []
    first, second = judged([ORDER, PLACE], fallen(order, Answered(503, 0.01)))
    assert first == second
    assert first.startswith("POST /orders/{id}/place-order: 503 at once while query_service hangs")


def test_an_answer_that_says_nothing_is_a_fault_also_where_the_part_is_needed() -> None:
    for silent in (Answered(500, 0.1), Answered(0, 25.0)):
        assert len(judged([ORDER, PLACE], fallen(silent, Answered(201, 0.01)))) == 2


def test_a_breaker_that_never_opens_or_never_closes_is_a_fault() -> None:
    seen = fallen(Answered(504, 15.0), Answered(201, 0.01))
    seen.breakers = [Figures(QUERY_SERVICE, None, 1.0), Figures(QUERY_SERVICE, 1.0, None)]
    assert judged([ORDER, PLACE], seen) == [
        "query_service hangs: the breaker query_service never opened",
        "query_service hangs: the breaker query_service never closed",
    ]
