"""`GET /sagas/durations`: how long orders take from placed to confirmed, now.

Orders that are still on their way count as what they are: they took at least as long as they are
old. Left out, a standstill would look as fast as the last good minute; counted as they stand, a
rush of new orders would look faster than it is. So the shares are those of Kaplan and Meier
("Nonparametric Estimation from Incomplete Observations", 1958). Orders that were turned back
without a confirmation are left out: they say nothing about how long a confirmation takes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from query_service.reads import Database, checked_parameters

SAGA: Final = "fulfilment"
CONFIRMED: Final = "OrderConfirmed"
INSTANCES_MAX: Final = 200
"""Of so many orders, the latest that were placed."""

AGE_MAX_HOURS: Final = 24

# Both times are of the log; only the age of what still runs is by the clock of the database.
_DURATIONS = """
SELECT greatest(extract(epoch FROM coalesce(confirmed.at, now()) - latest.started_at), 0)::float8,
  confirmed.at IS NOT NULL
FROM (
  SELECT started_at, phase, instance FROM "{schema}".saga_instances
  WHERE saga = '{saga}' AND phase IS NOT NULL AND started_at > now() - interval '{hours} hours'
  ORDER BY started_at DESC, saga, key LIMIT {most}
) AS latest
LEFT JOIN LATERAL (
  SELECT (step ->> 'answered_at')::timestamptz AS at
  FROM json_array_elements(latest.instance -> 'steps') AS step
  WHERE step ->> 'event_type' = '{confirmed}' LIMIT 1
) AS confirmed ON true
WHERE confirmed.at IS NOT NULL OR latest.phase = 'forward'
"""


class Duration(NamedTuple):
    """How long an order took, or has taken so far."""

    seconds: float
    ended: bool


class Durations:
    """The query over the sagas' own table; it is no read model and waits for no token."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._statement = _DURATIONS.format(
            schema=database.schema,
            saga=SAGA,
            confirmed=CONFIRMED,
            most=INSTANCES_MAX,
            hours=AGE_MAX_HOURS,
        ).encode()

    async def answer(self, request: Request) -> Response:
        """How long the latest orders took from placed to confirmed."""
        checked_parameters(request, ("wait_ms",))
        found = [Duration(*row) for row in await self._database.rows(self._statement, {})]
        samples = sum(each.ended for each in found)
        body = {
            "saga": SAGA,
            "until": CONFIRMED,
            "samples": samples,
            "under_way": len(found) - samples,
            "seconds": {"p50": quantile(found, 0.5), "p95": quantile(found, 0.95)},
        }
        headers = {"Cache-Control": "no-store"}
        return Response(msgspec.json.encode(body), headers=headers, media_type="application/json")


def quantile(durations: Iterable[Duration], share: float) -> float | None:
    """The seconds within which this share has ended; None where not so many have, by what is known.

    The estimate of Kaplan and Meier. Of what ended and what still runs at the same age, the end
    comes first.
    """
    known = sorted(durations, key=lambda each: (each.seconds, not each.ended))
    left = 1.0
    for number, each in enumerate(known):
        if each.ended:
            left *= 1 - 1 / (len(known) - number)
            if 1 - left >= share - 1e-9:  # the product is not exact
                return round(each.seconds, 3)
    return None
