"""Making topics: a topic that was made is waited for until Kafka knows it."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

import pytest

from tidelog.kafka import topics


class SlowAdmin:
    """Makes topics, of which it knows nothing for a while."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def create_topics(self, new: list[Any], **_: object) -> dict[str, Future[None]]:
        futures = {}
        for one in new:
            self.made.append(one.topic)
            futures[one.topic] = Future[None]()
            futures[one.topic].set_result(None)
        return futures


class Description:
    topic_id = "id"
    partitions = (0, 1)


def test_a_new_topic_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([0, 0, 0, 1])
    admin: Any = SlowAdmin()

    def describe(_: object, names: Mapping[str, object]) -> dict[str, Description]:
        known = next(answers, 2)
        return {name: Description() for name in list(names)[:known]}

    monkeypatch.setattr(topics, "_describe", describe)
    monkeypatch.setattr(topics, "DESCRIBE_POLL_S", 0.001)
    topics.ensure_topics(admin, {"a.events": {}, "b.events": {}}, 2, 1)
    assert sorted(topics.topic_ids(admin, ["a.events", "b.events"])) == ["a.events", "b.events"]
    assert admin.made == ["a.events", "b.events"]
    assert next(answers, None) is None
