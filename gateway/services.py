"""The services behind the gateway, and the connections to them.

Each service has connections of its own (a bulkhead), and so have streams; a breaker that refuses at
once while the service fails; and a budget of second tries. What becomes of one service therefore
changes nothing for the requests to another.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Mapping
from typing import Final, Protocol

import httpx2
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from gateway.errors import BadGateway, GatewayTimeout
from gateway.instances import PROBE_TIMEOUT_S, Instances
from gateway.routes import Upstream
from tidelog.breaker import BreakerOptions, CircuitBreaker, State
from tidelog.errors import Overloaded, Unavailable
from tidelog.http.asgi import HeaderList
from tidelog.logging import get_logger

AGAIN: Final = "Send it again; a command with the same Idempotency-Key is done once."
CONNECTIONS_MAX: Final = 256
# More than a query service has places for: who gets none hears so from it (429), at once.
STREAMS_MAX: Final = 1_100
INSTANCES_MAX: Final = 64
# A stream tells every 15 seconds that it is alive.
STREAM_SILENCE_S: Final = 45.0
CONNECT_TIMEOUT_S: Final = 2.0
WRITE_TIMEOUT_S: Final = 10.0
POOL_TIMEOUT_S: Final = 2.0
# Shorter than a readiness check may take: one service that hangs says nothing about the others.
LIVE_TIMEOUT_S: Final = 0.8
# Shorter than the services keep an idle connection: they never close one under a request.
IDLE_S: Final = 30.0

# Open for a moment only: a service that comes back is found again within a second.
BREAKER: Final = BreakerOptions(window_s=10.0, calls_min=20, failure_share=0.5, open_s=1.0)

RETRY_SHARE: Final = 0.1
"""Second tries, as a share of first ones: retries never double the load of a service in trouble."""

RETRIES_SAVED_MAX: Final = 10.0
RETRY_PAUSE_S: Final = 0.05

_STATES: Final[tuple[State, ...]] = ("closed", "half-open", "open")
_log = get_logger("gateway")


class Service:
    """One service: its connections, its breaker, its budget."""

    def __init__(self, name: str, urls: str, answer_timeout_s: float) -> None:
        """`urls` are those of its instances, with commas."""
        self.name = name
        self.instances = Instances([url.strip() for url in urls.split(",")])
        self.client = _client(CONNECTIONS_MAX, answer_timeout_s)
        self.streams = _client(STREAMS_MAX, STREAM_SILENCE_S)
        self._answer_timeout_s = answer_timeout_s
        self.breaker = CircuitBreaker(name, BREAKER, time.monotonic, _say)
        self.failures = 0
        self.refusals = 0
        self.retries = 0
        self._saved = RETRIES_SAVED_MAX

    async def send(
        self, request: httpx2.Request, *, streams: bool, repeatable: bool
    ) -> httpx2.Response:
        """The answer, its body not read yet. What is repeatable is tried twice, within budget."""
        self._saved = min(self._saved + RETRY_SHARE, RETRIES_SAVED_MAX)
        client = self.streams if streams else self.client
        try:
            return await self._try(client, request)
        except BadGateway:
            if not repeatable or self._saved < 1:
                raise
        self._saved -= 1
        self.retries += 1
        await asyncio.sleep(RETRY_PAUSE_S * (1 + random.random()))
        _readdress(request, self.instances.next())
        return await self._try(client, request)

    async def close(self) -> None:
        """Close every connection."""
        await self.client.aclose()
        await self.streams.aclose()

    async def _try(self, client: httpx2.AsyncClient, request: httpx2.Request) -> httpx2.Response:
        if not self.breaker.allow():
            self.refusals += 1
            raise Unavailable("The service behind this path does not answer for the moment.")
        try:
            # A stream may be silent for longer than this, but not before it has begun.
            async with asyncio.timeout(self._answer_timeout_s if client is self.streams else None):
                answer = await self._send(client, request)
        except httpx2.PoolTimeout:
            self.breaker.left()
            raise Overloaded("Every connection to the service is busy.") from None
        except (httpx2.TimeoutException, TimeoutError):
            self._failed()
            raise GatewayTimeout(f"The service did not answer in time. {AGAIN}") from None
        except httpx2.TransportError:
            self._failed()
            raise BadGateway(f"The service did not answer. {AGAIN}") from None
        except BaseException:
            self.breaker.left()  # the caller has gone
            raise
        self.breaker.succeeded()
        return answer

    async def _send(self, client: httpx2.AsyncClient, request: httpx2.Request) -> httpx2.Response:
        """What found nobody listening was not sent: another instance may have it."""
        for _ in range(len(self.instances) - 1):
            try:
                return await client.send(request, stream=True)
            except httpx2.ConnectError:
                self.instances.gone(request.url)
                _readdress(request, self.instances.next())
        return await client.send(request, stream=True)

    def _failed(self) -> None:
        self.failures += 1
        self.breaker.failed()


class Dependency(Protocol):
    """What is called by other means than these connections, and shown among them."""

    name: str
    breaker: CircuitBreaker
    failures: int
    refusals: int
    retries: int


class Services(Collector):
    """Sends requests to the services. Whoever gets an answer closes it."""

    def __init__(self, urls: Mapping[Upstream, str], *, answer_timeout_s: float) -> None:
        self._services = {
            upstream: Service(upstream.value, listed, answer_timeout_s)
            for upstream, listed in urls.items()
        }
        self.others: list[Dependency] = []
        self._probes = _client(INSTANCES_MAX, PROBE_TIMEOUT_S)
        self._watching: list[asyncio.Task[None]] = []

    def watch(self) -> None:
        """Begin to look which instances are ready."""
        self._watching = [
            asyncio.create_task(service.instances.watch(self._probes))
            for service in self._services.values()
        ]

    async def close(self) -> None:
        """Close every connection."""
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)
        await self._probes.aclose()
        for service in self._services.values():
            await service.close()

    async def problem(self, upstream: Upstream) -> str | None:
        """Why the service cannot be reached, or None."""
        service = self._services[upstream]
        url = service.instances.next().join("/livez")
        try:
            answer = await self._probes.get(url, timeout=LIVE_TIMEOUT_S)
        except httpx2.HTTPError as error:
            return f"{upstream.value}: {type(error).__name__}"
        return None if answer.status_code == 200 else f"{upstream.value} is not alive"

    async def send(
        self,
        upstream: Upstream,
        method: str,
        target: bytes,
        headers: HeaderList,
        content: bytes | None = None,
        *,
        streams: bool = False,
    ) -> httpx2.Response:
        """The answer, its body not read yet; `target` is path and query as they go out."""
        service = self._services[upstream]
        client = service.streams if streams else service.client
        request = httpx2.Request(
            method,
            service.instances.next(),
            headers=headers,
            content=content,
            extensions={"target": target, "timeout": client.timeout.as_dict()},
        )
        # A command with a key of the caller's own is carried out once, however often it is sent.
        repeatable = method == "GET" or any(name == b"idempotency-key" for name, _ in headers)
        return await service.send(request, streams=streams, repeatable=repeatable)

    async def ask(self, target: bytes, headers: HeaderList) -> httpx2.Response:
        """The whole answer of the query service to a question of ours."""
        answer = await self.send(Upstream.QUERIES, "GET", target, headers)
        try:
            await answer.aread()
        except httpx2.TransportError:
            raise BadGateway("The service broke off its answer.") from None
        finally:
            await answer.aclose()
        return answer

    def collect(self) -> Iterator[Metric]:
        """How each service does, as Prometheus reads it."""
        state = GaugeMetricFamily(
            "tidelog_breaker_state",
            "0 closed, 1 half-open, 2 open: calls are refused.",
            labels=("dependency",),
        )
        counted = {
            "failures": "Requests that the service did not answer, or not in time.",
            "refusals": "Requests that were refused at once while the breaker was open.",
            "retries": "Second tries.",
        }
        counters = {
            name: CounterMetricFamily(f"tidelog_gateway_{name}", told, labels=("dependency",))
            for name, told in counted.items()
        }
        for each in (*self._services.values(), *self.others):
            labels = (each.name,)
            state.add_metric(labels, _STATES.index(each.breaker.state))
            counters["failures"].add_metric(labels, each.failures)
            counters["refusals"].add_metric(labels, each.refusals)
            counters["retries"].add_metric(labels, each.retries)
        yield state
        yield from counters.values()


def _readdress(request: httpx2.Request, url: httpx2.URL) -> None:
    """Send it to another instance; path and query are in its target and stay."""
    request.url = url
    request.headers["host"] = url.netloc.decode("ascii")


def _say(name: str, state: State) -> None:
    _log.warning("the breaker has changed", dependency=name, state=state)


def _client(connections_max: int, answer_timeout_s: float) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(
        timeout=httpx2.Timeout(
            connect=CONNECT_TIMEOUT_S,
            read=answer_timeout_s,
            write=WRITE_TIMEOUT_S,
            pool=POOL_TIMEOUT_S,
        ),
        limits=httpx2.Limits(
            max_connections=connections_max,
            max_keepalive_connections=connections_max,
            keepalive_expiry=IDLE_S,
        ),
        follow_redirects=False,
        trust_env=False,  # services are neighbours, never behind somebody's proxy
    )
