"""Given answers that are kept, when read models move, then nothing is shown that has changed."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field

import pytest

from gateway.cache import ENTRY_BYTES, SILENCE_S, Cache, Depends, Entry, read_positions
from gateway.routes import ROUTES
from projectors import PROJECTIONS
from query_service.customers import SUMMARY
from query_service.orders import DETAIL, ORDERS
from query_service.payments import PAYMENT
from query_service.returns import RETURN
from query_service.sales import SALES
from query_service.shipments import SHIPMENT
from query_service.stock import LEVEL, STOCK
from schemas import CONTEXTS
from tidelog.engine.reading import Partition
from tidelog.partitioner import partition_of
from tidelog.projection import Projection

PARTITIONS = 4
STOOD = {Partition("orders", number): 5 for number in range(PARTITIONS)}
AS_OF = "orders:0:5,orders:1:5,orders:2:5,orders:3:5"
LATER = "orders:0:5,orders:1:6,orders:2:5,orders:3:5"
HERE, THERE = Partition("orders", 1), Partition("orders", 2)
ORDER, LIST = Depends("order_detail", HERE), Depends("order_summary")

SHOWN = {
    "/orders": ORDERS.shown,
    "/orders/{id}": DETAIL,
    "/stock": STOCK.shown,
    "/stock/{sku}": LEVEL,
    "/payments/{order_id}": PAYMENT,
    "/shipments/{order_id}": SHIPMENT,
    "/returns/{id}": RETURN,
    "/customers/{id}/summary": SUMMARY,
    "/sales/daily": SALES.shown,
}


def begun(bytes_max: int = 1_000_000) -> Cache:
    cache = Cache(bytes_max)
    cache.begin({"order_detail": STOOD, "order_summary": STOOD}, PARTITIONS, now=0.0)
    return cache


def entry(cache: Cache, depends: Depends, body: bytes = b"{}") -> Entry:
    """An answer that is asked for now."""
    return Entry(depends, cache.positions.moment, [(b"etag", b'"1"')], "1", body)


@pytest.mark.parametrize("depends", [ORDER, LIST])
def test_an_answer_holds_while_nothing_moves(depends: Depends) -> None:
    cache = begun()
    kept = entry(cache, depends)

    assert cache.keep(b"/o", kept, AS_OF)

    cache.positions.proved(1.0)
    assert cache.find(b"/o") == kept


def test_an_answer_is_forgotten_when_its_partition_moves_and_not_when_another_does() -> None:
    cache = begun()
    cache.keep(b"/o", entry(cache, ORDER), AS_OF)

    cache.positions.moved("order_detail", {THERE: 6})
    cache.positions.moved("order_summary", {HERE: 6})
    assert cache.find(b"/o") is not None

    cache.positions.moved("order_detail", {HERE: 6})
    assert cache.find(b"/o") is None
    assert (len(cache), cache.bytes) == (0, 0)


def test_a_row_that_was_folded_again_is_forgotten_though_no_position_moved() -> None:
    cache = begun()
    cache.keep(b"/o", entry(cache, ORDER), AS_OF)

    cache.positions.moved("order_detail", {HERE: 5})

    assert cache.find(b"/o") is None


def test_a_list_is_forgotten_when_any_partition_moves() -> None:
    cache = begun()
    cache.keep(b"/l", entry(cache, LIST), AS_OF)

    cache.positions.moved("order_summary", {THERE: 6})

    assert cache.find(b"/l") is None


@pytest.mark.parametrize("depends", [ORDER, LIST])
def test_what_was_heard_while_the_answer_was_on_its_way_keeps_it_out(depends: Depends) -> None:
    cache = begun()
    asked = entry(cache, depends)

    cache.positions.moved(depends.projection, {HERE: 6})

    # Not even where the answer knows of it: its rows may be of before or of after.
    assert not cache.keep(b"/o", asked, AS_OF)
    assert not cache.keep(b"/o", asked, LATER)
    assert cache.keep(b"/o", entry(cache, depends), LATER)


def test_an_answer_tells_news_that_nobody_else_has_told_yet() -> None:
    cache = begun()
    cache.keep(b"/o", entry(cache, ORDER), AS_OF)
    on_its_way = entry(cache, ORDER)

    # A query with a token went past the cache, and was answered as of later positions.
    cache.positions.learn("order_detail", LATER)

    assert cache.find(b"/o") is None
    assert not cache.keep(b"/o", on_its_way, AS_OF)
    assert cache.keep(b"/o", entry(cache, ORDER), LATER)
    cache.positions.learn("order_detail", AS_OF)
    assert cache.find(b"/o") is not None, "what is known already is no news"


def test_of_two_answers_that_differ_neither_is_kept_nor_what_was_asked_for_before() -> None:
    cache = begun()
    older, newer, oldest = (entry(cache, ORDER, body) for body in (b"1", b"2", b"0"))

    assert cache.keep(b"/o", older, AS_OF)
    assert not cache.keep(b"/o", newer, AS_OF)

    assert cache.find(b"/o") is None
    assert not cache.keep(b"/o", oldest, AS_OF)
    assert cache.keep(b"/o", entry(cache, ORDER, b"2"), AS_OF)
    assert cache.keep(b"/o", entry(cache, ORDER, b"2"), AS_OF)


@pytest.mark.parametrize(
    "as_of", ["orders:0:5,orders:1:4", "orders:0:5,orders:1:6", "orders:0:5", "", "nonsense", "a:b"]
)
@pytest.mark.parametrize("depends", [ORDER, LIST])
def test_an_answer_as_of_other_positions_than_are_known_is_not_kept(
    as_of: str, depends: Depends
) -> None:
    cache = begun()

    assert not cache.keep(b"/o", entry(cache, depends), as_of)


def test_an_answer_of_a_read_model_that_nobody_told_of_is_not_kept() -> None:
    cache = begun()

    assert not cache.keep(b"/s", entry(cache, Depends("stock_level")), AS_OF)
    assert not cache.keep(b"/s", entry(cache, Depends("stock_level", HERE)), AS_OF)


def test_silence_is_not_taken_for_peace() -> None:
    cache = begun()

    assert cache.positions.known(SILENCE_S)
    assert not cache.positions.known(SILENCE_S + 0.001)
    cache.positions.proved(SILENCE_S)
    assert cache.positions.known(SILENCE_S * 2)


def test_nothing_from_before_a_break_holds_after_it() -> None:
    cache = begun()
    cache.keep(b"/o", entry(cache, ORDER), AS_OF)
    on_its_way = entry(cache, ORDER)

    cache.positions.lost()
    assert not cache.positions.known(0.0)
    assert cache.find(b"/o") is None
    assert not cache.keep(b"/o", entry(cache, ORDER), AS_OF)

    cache.begin({"order_detail": STOOD}, PARTITIONS, now=2.0)
    assert cache.find(b"/o") is None
    assert not cache.keep(b"/o", on_its_way, AS_OF), "it was asked for before the break"
    assert cache.keep(b"/o", entry(cache, ORDER), AS_OF)


def test_the_cache_never_holds_more_than_its_bound_and_forgets_what_was_asked_for_least() -> None:
    size = ENTRY_BYTES + len(b"/0") + len(b'etag"1"') + 100
    cache = begun(bytes_max=3 * size)
    for number in range(3):
        assert cache.keep(b"/%d" % number, entry(cache, ORDER, bytes(100)), AS_OF)
    assert cache.bytes == 3 * size
    assert cache.find(b"/0") is not None

    assert cache.keep(b"/3", entry(cache, ORDER, bytes(100)), AS_OF)

    assert [key for key in (b"/0", b"/1", b"/2", b"/3") if cache.find(key)] == [b"/0", b"/2", b"/3"]
    assert cache.bytes == 3 * size
    assert not cache.keep(b"/4", entry(cache, ORDER, bytes(4 * size)), AS_OF)


def test_a_key_depends_on_the_partition_that_its_events_are_in() -> None:
    cache = begun()

    found = cache.positions.home("order_detail", "orders", "o-1")

    assert found == ("order_detail", Partition("orders", partition_of("o-1", PARTITIONS)))


def test_positions_are_read_however_many_there_are() -> None:
    many = ",".join(f"orders:{number}:{number * 2}" for number in range(1_000))

    assert len(read_positions(many)) == 1_000
    assert read_positions(AS_OF) == STOOD
    assert read_positions("orders:1:5,?") == {}


def test_what_is_kept_is_marked_as_the_read_models_are_folded() -> None:
    marked = {routed.template: routed.kept for routed in ROUTES if routed.kept is not None}
    assert marked.keys() == SHOWN.keys()
    projections = {each.name: each for each in PROJECTIONS}
    keys = {context.name: context.key for context in CONTEXTS}
    for template, kept in marked.items():
        projection, shown = projections[kept.projection], SHOWN[template]
        assert isinstance(projection, Projection)
        assert shown.projection == kept.projection
        if kept.context:
            # One context feeds the row, and the row's key is the key of its aggregates.
            assert [each.name for each in projection.contexts] == [kept.context]
            assert shown.key == projection.key == keys[kept.context]
            assert not kept.any_query


def test_streams_and_what_a_caller_alone_may_see_are_not_kept() -> None:
    for routed in ROUTES:
        unkept = ("/history", "/live", "/overview", "/commands", "/sagas", "/parked", "/events")
        if any(part in routed.template for part in unkept) or routed.method != "GET":
            assert routed.kept is None, routed


# --- a world in which everything comes late ---------------------------------------------------


@dataclass
class World:
    """Rows that change, notices that are on their way, and query processes that hear late."""

    dice: random.Random
    cache: Cache = field(default_factory=lambda: Cache(ENTRY_BYTES * 20))
    rows: dict[Partition, int] = field(default_factory=dict)
    stand: dict[Partition, int] = field(default_factory=dict)
    told: deque[tuple[Partition, int]] = field(default_factory=deque)
    asked: list[tuple[Partition, Entry]] = field(default_factory=list)
    read: list[tuple[Partition, Entry, int, str]] = field(default_factory=list)
    heard: dict[Partition, int] = field(default_factory=dict)
    """The row of each partition when the last notice that arrived was sent."""

    sent: deque[int] = field(default_factory=deque)
    shown: dict[Partition, int] = field(default_factory=dict)
    """The newest row of each partition that somebody was shown."""

    hits: int = 0

    def __post_init__(self) -> None:
        self.rows = {Partition("orders", number): 0 for number in range(3)}
        self.stand, self.shown = dict.fromkeys(self.rows, 0), dict.fromkeys(self.rows, 0)
        self.begin()

    def begin(self) -> None:
        """A new stream: what was under way in the old one is not told any more."""
        self.told.clear()
        self.sent.clear()
        self.heard = dict(self.rows)
        self.cache.begin({"order_detail": self.stand}, 3, now=0.0)

    def write(self) -> None:
        """A commit changes a row; a retry leaves the position where it is."""
        at = self.dice.choice([*self.rows])
        self.rows[at] += 1
        self.stand[at] += self.dice.random() < 0.8
        self.told.append((at, self.stand[at]))
        self.sent.append(self.rows[at])

    def deliver(self) -> None:
        """The next notice arrives."""
        if self.told:
            at, sequence = self.told.popleft()
            self.heard[at] = self.sent.popleft()
            self.cache.positions.moved("order_detail", {at: sequence})

    def ask(self) -> None:
        """A query goes out where nothing is kept. What is kept is as new as what was heard."""
        at = self.dice.choice([*self.rows])
        found = self.cache.find(b"%d" % at.number)
        if found is not None:
            self.hits += 1
            assert int(found.body) >= self.heard[at]
            assert int(found.body) >= self.shown[at], "a row never goes back"
            return
        self.asked.append((at, entry(self.cache, Depends("order_detail", at))))

    def look(self) -> None:
        """Some process reads the row for a query; what it has heard itself may be older."""
        if self.asked:
            at, asked = self.asked.pop(self.dice.randrange(len(self.asked)))
            behind = max(self.stand[at] - self.dice.choice([0, 0, 0, 1]), 0)
            self.read.append((at, asked, self.rows[at], f"{at.context}:{at.number}:{behind}"))

    def answer(self) -> None:
        """An answer arrives."""
        if self.read:
            at, asked, row, as_of = self.read.pop(self.dice.randrange(len(self.read)))
            self.cache.keep(b"%d" % at.number, asked._replace(body=b"%d" % row), as_of)
            self.shown[at] = max(self.shown[at], row)


@pytest.mark.parametrize("seed", range(200))
def test_however_late_anything_is_no_answer_is_older_than_what_was_heard_or_shown(
    seed: int,
) -> None:
    world = World(random.Random(seed))
    weights = {world.write: 1, world.deliver: 4, world.ask: 6, world.look: 4, world.answer: 4}
    for _ in range(600):
        world.dice.choices([*weights], [*weights.values()])[0]()
        if world.dice.random() < 0.005:
            world.cache.positions.lost()
            world.begin()
    while world.told:
        world.deliver()
    for at, row in world.rows.items():
        kept = world.cache.find(b"%d" % at.number)
        assert kept is None or int(kept.body) == row, "once all is heard, what is kept is the row"
    assert world.hits, "the world is one in which answers are kept"
