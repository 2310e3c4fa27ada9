"""Who owns which partition, as the group tells it, kept until somebody says otherwise.

Every member has the address of its gRPC server in its client id, so one request to the coordinator
tells all owners. While the group is being balanced it names none: then nobody is the owner yet.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tidelog.kafka.membership import Place
from tidelog.logging import get_logger

REFRESH_INTERVAL_S: Final = 0.1
"""The coordinator is asked at most this often, however many wait."""

DESCRIBE_TIMEOUT_S: Final = 5.0

_CLIENT_ID = re.compile(r"command-service@(.+:[0-9]{1,5})")
log = get_logger(__name__)


def client_id_of(address: str) -> str:
    """The client id of a member whose gRPC server listens at `address` (host:port)."""
    return f"command-service@{address}"


def address_in(client_id: str) -> str | None:
    """The address in a member's client id; None where it has none."""
    found = _CLIENT_ID.fullmatch(client_id)
    return None if found is None else found[1]


class OwnerDirectory:
    """The address of each partition's owner. One event loop uses it."""

    def __init__(
        self,
        describe: Callable[[], Mapping[Place, str]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._describe = describe
        self._clock = clock
        self._owners: dict[Place, str] = {}
        self._refreshing: asyncio.Task[None] | None = None
        self._asked_at = float("-inf")

    async def owner(self, place: Place) -> str | None:
        """The owner's address; None where the group names nobody, or does not answer."""
        found = self._owners.get(place)
        if found is None:
            await self._refresh()
            found = self._owners.get(place)
        return found

    def wrong(self, place: Place, address: str) -> None:
        """The instance at `address` is not the owner, or cannot be reached: ask the group again."""
        if self._owners.get(place) == address:
            del self._owners[place]

    async def _refresh(self) -> None:
        """Whoever comes while the group is being asked waits for the same answer."""
        if self._refreshing is None:
            self._refreshing = asyncio.create_task(self._ask())
        await asyncio.shield(self._refreshing)

    async def _ask(self) -> None:
        try:
            wait_s = self._asked_at + REFRESH_INTERVAL_S - self._clock()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            self._asked_at = self._clock()
            self._owners = dict(await asyncio.to_thread(self._describe))
        except KafkaException as error:
            log.warning("owners.unknown", error=str(error))
        finally:
            self._refreshing = None


def described_owners(admin: AdminClient, group: str) -> dict[Place, str]:
    """Each assigned partition's owner, from the group's description. Raises KafkaException."""
    futures = admin.describe_consumer_groups([group], request_timeout=DESCRIBE_TIMEOUT_S)
    description: Any = futures[group].result()
    owners = {}
    for member in description.members:
        address = address_in(member.client_id)
        if address is None or member.assignment is None:
            continue
        for found in member.assignment.topic_partitions:
            owners[found.topic, found.partition] = address
    return owners
