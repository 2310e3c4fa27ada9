"""Has every live generation heed people's decisions, those that came after their event as well.

Any number of processes may do so: each looks at what a generation has heeded, and the first to
know of more says so in one transaction. What is heeded is stored, so a start goes on from there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing

from tidelog.definitions import AnyProjection
from tidelog.engine.heeded import Heeded, covers, merged, reach_of
from tidelog.engine.heeding import Heeding, Made, further, heed
from tidelog.engine.retrying import Log
from tidelog.errors import TidelogError, Unavailable
from tidelog.kafka.decisions import DecisionLog
from tidelog.logging import get_logger
from tidelog.postgres.heed_store import PostgresHeedStore
from tidelog.postgres.parked_board import ParkedBoard
from tidelog.postgres.tables import Generation
from tidelog.projection import Projection
from tidelog.settings import Settings

log = get_logger(__name__)


class Heeder:
    """Brings the generations of some projections to the decisions that are known. One thread."""

    def __init__(
        self,
        projections: Mapping[tuple[str, int], AnyProjection],
        *,
        settings: Settings,
        decisions: DecisionLog,
        board: ParkedBoard,
    ) -> None:
        self._projections = projections
        self._settings = settings
        self._decisions = decisions
        self._board = board
        self._late: dict[Generation, str] = {}
        self._troubles: dict[Generation, str] = {}

    def problems(self) -> list[str]:
        """Why a generation has not heeded a decision; empty where all have."""
        return list(self._troubles.copy().values())

    def heed(self, facts: Log) -> None:
        """Have all heed what is known now. Raises Unavailable; what was done until then stays."""
        made = {name: self._decisions.made_for(*name) for name in self._projections}
        decided = [name for name, some in made.items() if some]
        if not decided:
            return
        for generation, heeded in self._board.heeded(decided).items():
            name = (generation.projection, generation.version)
            if not self._lacks(generation, heeded, made[name]):
                continue
            try:
                self._heed(generation, self._projections[name], facts, made[name])
                self._troubles.pop(generation, None)
            except Unavailable:
                raise
            except TidelogError as error:  # this one's fault must not hold up the others
                if self._troubles.get(generation) != str(error):
                    log.error("projection.heeds_not", table=generation.table, reason=str(error))
                self._troubles[generation] = str(error)

    def _lacks(
        self, generation: Generation, heeded: frozenset[Heeded], made: Sequence[Made]
    ) -> bool:
        reach = reach_of([each.decision for each in made])
        if self._late.get(generation) == reach:
            return False  # it is said already that only a rebuild helps
        return not all(covers(each, reach) for each in heeded)

    def _heed(
        self,
        generation: Generation,
        projection: AnyProjection,
        facts: Log,
        made: Sequence[Made],
    ) -> None:
        settings = self._settings
        store = PostgresHeedStore(
            generation, dsn=settings.postgres_dsn, schema=settings.postgres_schema
        )
        with closing(store):
            if not isinstance(projection, Projection):
                self._heed_sql(generation, store, made)
                return
            keys = heed(projection, store, facts, made)
        log.info("projection.heeds", table=generation.table, decisions=len(made), refolds=len(keys))
        for key in keys:
            log.warning("projection.key_refolds", table=generation.table, key=key)

    def _heed_sql(
        self, generation: Generation, store: PostgresHeedStore, made: Sequence[Made]
    ) -> None:
        """What its own SQL has written cannot be folded again: where it was late, say so."""
        stand = store.stand()
        new = further(made, stand)
        reach = reach_of([each.decision for each in made])
        late = [m for m in new if m.sequence <= stand.at[m.partition].progress.sequence]
        if late:
            place = f"{late[0].partition}:{late[0].sequence}"
            reason = (
                f"{place} was decided on when {generation.table} had it, and its own SQL cannot "
                f"take it back. Run `tidelog projection rebuild {generation.projection}`."
            )
            self._board.needs_rebuild(generation, reason)
            log.error("projection.needs_rebuild", table=generation.table, reason=reason)
            self._late[generation] = reach
            return
        places = sorted({(each.partition, each.sequence) for each in new})
        heeded = {at: merged(each.heeded, reach) for at, each in stand.at.items()}
        # None where it has moved on meanwhile: then it is looked at again in the next round.
        store.heed(stand.at, Heeding([], places, places, heeded))
