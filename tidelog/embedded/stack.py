"""The whole system on one machine: what `./dev up` runs, and how others find it (dev.json)."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tidelog.embedded.data_dir import DataDirectory, JoinedProcess, RecordedProcess
from tidelog.embedded.dev_keys import dev_token, prepare_keys
from tidelog.embedded.jars import class_path
from tidelog.embedded.kafka import KafkaServer
from tidelog.embedded.postgres import PostgresServer
from tidelog.embedded.seed import seed
from tidelog.embedded.service import Service, ServiceServer
from tidelog.embedded.supervisor import Member, Supervisor
from tidelog.errors import ConfigurationError

HOST = "127.0.0.1"
PARTITIONS_DEFAULT = 4
INSTANCES_MAX = 16
KAFKA = "kafka"
POSTGRES = "postgres"

# The services, in the order in which they are listed. A further one is a further line.
SERVICES: tuple[Service, ...] = (
    Service(
        name="registry",
        module="tidelog.registry",
        depends_on=(KAFKA,),
        listed_as="registry",
    ),
    Service(
        name="command_service",
        module="command_service",
        depends_on=(KAFKA, "registry"),
        grpc=True,
    ),
    Service(
        name="projectors",
        module="projectors",
        depends_on=(KAFKA, POSTGRES, "registry"),
    ),
    Service(
        name="query_service",
        module="query_service",
        depends_on=(KAFKA, POSTGRES, "registry", "projectors"),
        listed_as="query",
        grpc=True,
    ),
    Service(
        name="live_metrics",
        module="projectors.live_metrics",
        depends_on=(KAFKA, "registry"),
    ),
    Service(
        name="payment_provider",
        module="sagas.world.payment_provider",
        depends_on=(),
        listed_as="payment_provider",
    ),
    Service(
        name="carrier",
        module="sagas.world.carrier",
        depends_on=(),
        listed_as="carrier",
    ),
    Service(
        name="mail",
        module="sagas.world.mail",
        depends_on=(),
        listed_as="mail",
    ),
    Service(
        name="sagas",
        module="sagas",
        depends_on=(KAFKA, POSTGRES, "registry", "command_service"),
    ),
    Service(
        name="effects",
        module="sagas.effects",
        depends_on=(KAFKA, POSTGRES, "registry", "payment_provider", "carrier"),
    ),
    Service(
        name="notifications",
        module="sagas.notifications",
        depends_on=(KAFKA, POSTGRES, "registry", "mail"),
    ),
    Service(
        name="gateway",
        module="gateway",
        depends_on=("command_service", "query_service"),
        listed_as="gateway",
    ),
)

# The parts that dev.json names; null where the table above has none.
LISTED = ("gateway", "query", "registry", "payment_provider", "carrier", "mail")

# Parts that may run elsewhere: the setting that says where, found in the environment of `up`.
EXTERNAL_SETTINGS: Mapping[str, str] = {
    KAFKA: "TIDELOG_KAFKA_BOOTSTRAP_SERVERS",
    POSTGRES: "TIDELOG_POSTGRES_DSN",
    "registry": "TIDELOG_REGISTRY_URL",
}

# The settings by which a service finds another.
ADDRESS_SETTINGS: Mapping[str, str] = {
    "registry": "TIDELOG_REGISTRY_URL",
    "command_service": "TIDELOG_COMMAND_SERVICE_URL",
    "query_service": "TIDELOG_QUERY_SERVICE_URL",
    "live_metrics": "TIDELOG_LIVE_METRICS_URL",
    "payment_provider": "TIDELOG_PAYMENT_PROVIDER_URL",
    "carrier": "TIDELOG_CARRIER_URL",
}

# The settings by which a service finds all instances of another.
INSTANCES_SETTINGS: Mapping[str, str] = {
    "command_service": "TIDELOG_COMMAND_SERVICE_INSTANCES",
}

# How often the stack looks who has joined it and who has left.
JOINED_INTERVAL_S = 0.5

# The settings by which a service finds the gRPC server of another.
GRPC_SETTINGS: Mapping[str, str] = {"query_service": "TIDELOG_QUERY_SERVICE_GRPC"}

# How long an instance with others beside it serves on when it is told to stop: longer than one look
# of the gateway at it and the pause before it, so that a busy one has seen it, too.
DRAIN_MS = 3_000

# The services that listen on a second port, which is no HTTP, and the setting that says where.
# There is one port for all instances, so there is one instance.
PORT_SETTINGS: Mapping[str, str] = {"mail": "TIDELOG_SMTP_PORT"}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `up` was asked for."""

    data: Path
    fresh: bool = False
    with_seed: bool = True
    auth: bool = False
    scale: Mapping[str, int] = field(default_factory=dict)
    gateway_port: int = 0
    partitions: int | None = None
    services: tuple[Service, ...] = SERVICES
    external: Mapping[str, str] = field(default_factory=dict)  # part → where it is


class Stack:
    """The members of one stack, and what is written down about them.

    Making it settles ports, addresses and passwords in its folder, which must be held.
    """

    def __init__(self, options: Options, folder: DataDirectory, say: Callable[[str], None]) -> None:
        self.options = options
        self.folder = folder
        self.say = say
        self.stopping = False
        self._announced = False
        self._joined: list[JoinedProcess] = []
        partitions = folder.settle(options.partitions, PARTITIONS_DEFAULT)
        kafka = KafkaServer(folder.path / KAFKA, HOST, log=folder.logs / "kafka-1.log")
        postgres = PostgresServer(folder.path / POSTGRES, HOST, log=folder.logs / "postgres-1.log")
        embedded = {
            server.name: server
            for server in (kafka, postgres)
            if server.name not in options.external
        }
        for server in embedded.values():
            server.settle()
        instances = _instances(options)
        ports = {
            _title(service, instance): _port(options, folder, service, instance)
            for service, instance in instances
        }
        self.settings = {
            **_service_addresses(options, ports),
            **_grpc_addresses(options, folder),
            **_second_ports(options, folder),
            "TIDELOG_KAFKA_BOOTSTRAP_SERVERS": options.external.get(KAFKA)
            or kafka.bootstrap_servers,
            "TIDELOG_POSTGRES_DSN": options.external.get(POSTGRES) or postgres.dsn,
            "TIDELOG_SMTP_HOST": HOST,
            "TIDELOG_PARTITIONS": str(partitions),
            **(prepare_keys(folder.path) if options.auth else {}),
        }
        self._servers = [
            self._server(service, instance, ports[_title(service, instance)])
            for service, instance in instances
        ]
        self.supervisor = Supervisor(_members(embedded, self._servers), self)

    def _server(self, service: Service, instance: str, port: int) -> ServiceServer:
        title = _title(service, instance)
        several = service.grpc and self.options.scale.get(service.name, 1) > 1
        return ServiceServer(
            service=service,
            instance=instance,
            host=HOST,
            port=port,
            settings=self.settings,
            state_dir=self.folder.path / "state" / title,
            log=self.folder.logs / f"{title}.log",
            grpc_port=self.folder.port(_grpc(title)) if service.grpc else None,
            drain_ms=DRAIN_MS if several else 0,
        )

    def launched(self) -> None:
        """Keep pids.json and dev.json, or starting.json before it, in step with the processes."""
        self.folder.record(self.supervisor.processes())
        if self._announced:
            self.folder.announce(self.description())
        elif not self.stopping:
            self.folder.begin(self.description())

    def look_who_joined(self) -> None:
        """Keep dev.json in step with the instances that others have added."""
        joined = self.folder.joined()
        if self._announced and joined != self._joined:
            self._joined = joined
            self.folder.announce(self.description())

    def announce(self) -> None:
        """Write dev.json: everything is ready."""
        self._announced = True
        self._joined = self.folder.joined()
        self.folder.announce(self.description())

    def withdraw(self) -> None:
        """Remove dev.json: the stack is about to stop."""
        self._announced = False
        self.stopping = True
        self.folder.withdraw()

    def url(self, name: str) -> str | None:
        """The URL of the first instance of a service; None if it is not part of the stack."""
        external = self.options.external.get(name)
        if external is not None:
            return external
        found = [server.url for server in self._servers if server.service.name == name]
        return found[0] if found else None

    def authorization(self) -> dict[str, str]:
        """What the stack itself shows at its gateway; nothing while authentication is off."""
        if not self.options.auth:
            return {}
        return {"Authorization": f"Bearer {dev_token(self.folder.path, 'stack', ['service'])}"}

    def description(self) -> dict[str, Any]:
        """The content of dev.json, as WIRE.md has it."""
        names = {service.listed_as: service.name for service in self.options.services}
        urls = {key: self.url(names[key]) if key in names else None for key in LISTED}
        return {
            "pid": os.getpid(),
            "auth": "on" if self.options.auth else "off",
            **{key: None if url is None else {"url": url} for key, url in urls.items()},
            "kafka": {"bootstrap_servers": self.settings["TIDELOG_KAFKA_BOOTSTRAP_SERVERS"]},
            "postgres": {"dsn": self.settings["TIDELOG_POSTGRES_DSN"]},
            "processes": self._processes(),
        }

    def _processes(self) -> list[dict[str, Any]]:
        servers = {(server.service.name, server.instance): server for server in self._servers}
        found = [
            (process, servers.get((process.name, process.instance)))
            for process in self.supervisor.processes()
        ]
        own = [
            _listed(process, server.url if server else None, server.grpc if server else None)
            for process, server in found
        ]
        return own + [_listed(process, process.url, process.grpc) for process in self._joined]


def _listed(
    process: RecordedProcess | JoinedProcess, url: str | None, grpc: str | None
) -> dict[str, Any]:
    """A line of dev.json's `processes`."""
    return {
        "name": process.name,
        "instance": process.instance,
        "pid": process.pid,
        "url": url,
        "grpc": grpc,
    }


def _instances(options: Options) -> list[tuple[Service, str]]:
    """Every instance of every service that this stack runs itself."""
    return [
        (service, str(number))
        for service in options.services
        if service.name not in options.external
        for number in range(1, options.scale.get(service.name, 1) + 1)
    ]


def _title(service: Service, instance: str) -> str:
    return f"{service.name}-{instance}"


def _grpc(title: str) -> str:
    """The name of an instance's second port."""
    return f"{title}-grpc"


def _port(options: Options, folder: DataDirectory, service: Service, instance: str) -> int:
    title = _title(service, instance)
    return folder.port(title, options.gateway_port if title == "gateway-1" else 0)


def _service_addresses(options: Options, ports: Mapping[str, int]) -> dict[str, str]:
    """The settings that say where other services are, for those that there are."""
    own = {
        setting: f"http://{HOST}:{ports[f'{name}-1']}"
        for name, setting in ADDRESS_SETTINGS.items()
        if f"{name}-1" in ports
    }
    for name, setting in INSTANCES_SETTINGS.items():
        titles = [f"{name}-{number}" for number in range(1, options.scale.get(name, 1) + 1)]
        if all(title in ports for title in titles):
            own[setting] = ",".join(f"http://{HOST}:{ports[title]}" for title in titles)
    if "registry" in options.external:
        own["TIDELOG_REGISTRY_URL"] = options.external["registry"]
    return own


def _grpc_addresses(options: Options, folder: DataDirectory) -> dict[str, str]:
    """The settings that say where the first instance of a service listens for gRPC."""
    return {
        setting: f"{HOST}:{folder.port(_grpc(_title(service, '1')))}"
        for service in options.services
        for name, setting in GRPC_SETTINGS.items()
        if name == service.name
    }


def _second_ports(options: Options, folder: DataDirectory) -> dict[str, str]:
    return {
        setting: str(folder.port(setting))
        for service in options.services
        for name, setting in PORT_SETTINGS.items()
        if name == service.name
    }


def _members(
    embedded: Mapping[str, KafkaServer | PostgresServer], services: Sequence[ServiceServer]
) -> list[Member]:
    return [
        *(Member(name=name, instance="1", server=server) for name, server in embedded.items()),
        *(
            Member(
                name=server.service.name,
                instance=server.instance,
                server=server,
                depends_on=server.service.depends_on,
            )
            for server in services
        ),
    ]


def check_scale(scale: Mapping[str, int]) -> None:
    """Refuse a name that is no service and a number beyond the bounds.

    A service that no other one needs may be left out: 0 instances.
    """
    names = [service.name for service in SERVICES]
    needed = {name for service in SERVICES for name in service.depends_on}
    for name, number in scale.items():
        if name not in names:
            raise ConfigurationError(f"--scale: {name} is not one of {', '.join(names)}")
        least = 1 if name in needed else 0
        most = 1 if name in PORT_SETTINGS else INSTANCES_MAX
        if not least <= number <= most:
            raise ConfigurationError(f"--scale: {name}={number} is not {least} to {most}")


def external_parts(environment: Mapping[str, str]) -> dict[str, str]:
    """The parts that run elsewhere, by the settings in the environment."""
    return {
        part: environment[setting]
        for part, setting in EXTERNAL_SETTINGS.items()
        if environment.get(setting)
    }


def run(
    options: Options, say: Callable[[str], None], ready: Callable[[dict[str, Any]], None]
) -> None:
    """Run the stack until SIGINT or SIGTERM; a second signal kills what still runs.

    Call it on the main thread. Raises ConfigurationError when it may not start, Unavailable when a
    part cannot be started; everything is stopped before it returns or raises.
    """
    folder = DataDirectory(options.data)
    with folder.held():
        folder.withdraw()
        for process in folder.stop_stale():
            say(f"stopped {process.name}-{process.instance} of an earlier run ({process.pid})")
        if options.fresh:
            folder.empty()
        stack = Stack(options, folder, say)
        if KAFKA not in options.external:
            class_path()  # here, where a signal can still interrupt a long download
        asyncio.run(_supervise(stack, ready))
        folder.record(())


async def _supervise(stack: Stack, ready: Callable[[dict[str, Any]], None]) -> None:
    asked_to_stop = asyncio.Event()
    _on_signals(stack.supervisor, asked_to_stop, stack.say)
    stack.supervisor.start()
    work = asyncio.create_task(_start_and_watch(stack, ready))
    stopping = asyncio.create_task(asked_to_stop.wait())
    try:
        await asyncio.wait([work, stopping], return_when=asyncio.FIRST_COMPLETED)
    finally:
        stack.withdraw()
        work.cancel()
        stopping.cancel()
        await stack.supervisor.stop()
    if work.done() and not work.cancelled():
        work.result()


async def _start_and_watch(stack: Stack, ready: Callable[[dict[str, Any]], None]) -> None:
    await stack.supervisor.all_ready()
    gateway = stack.url("gateway")
    if stack.options.with_seed and gateway is not None:
        await asyncio.to_thread(
            seed,
            gateway,
            wanted=lambda: not stack.stopping,
            authorization=stack.authorization(),
        )
    stack.announce()
    ready(stack.description())
    looking = asyncio.create_task(_look_who_joins(stack))
    failing = asyncio.create_task(stack.supervisor.failed())
    try:
        done, _ = await asyncio.wait((looking, failing), return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        looking.cancel()
        failing.cancel()


async def _look_who_joins(stack: Stack) -> None:
    while True:
        stack.look_who_joined()
        await asyncio.sleep(JOINED_INTERVAL_S)


def _on_signals(
    supervisor: Supervisor, asked_to_stop: asyncio.Event, say: Callable[[str], None]
) -> None:
    def heard() -> None:
        if asked_to_stop.is_set():
            say("killing everything")
            supervisor.kill()
            return
        say("stopping (once more: kill)")
        asked_to_stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, heard)
