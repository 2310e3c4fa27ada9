"""The live metrics with a Faust that loses every fifth record and gives every seventh twice."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from projectors.live.transport import LogConsumer, LogConsumerThread, LogTransport
from projectors.live_metrics import main


class LossyThread(LogConsumerThread):
    """Loses a record only when it first comes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lost: set[tuple[Any, int]] = set()

    async def _fetch_records(self, *args: Any, **kwargs: Any) -> dict[Any, list[Any]]:
        fetched = await super()._fetch_records(*args, **kwargs)
        return {tp: list(self._given(tp, records)) for tp, records in fetched.items()}

    def _given(self, tp: Any, records: list[Any]) -> Iterator[Any]:
        for record in records:
            if record.offset % 5 == 0 and (tp, record.offset) not in self._lost:
                self._lost.add((tp, record.offset))
                continue
            yield record
            if record.offset % 7 == 0:
                yield record


class LossyConsumer(LogConsumer):
    def _new_consumer_thread(self) -> LossyThread:
        return LossyThread(self, loop=self.loop, beacon=self.beacon)


class LossyTransport(LogTransport):
    Consumer = LossyConsumer


if __name__ == "__main__":
    sys.exit(main(LossyTransport))
