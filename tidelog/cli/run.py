"""`tidelog run NAME`: one further instance of a service, in the foreground."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from tidelog.cli.output import Dev, say
from tidelog.cli.system import dev_file, read_dev
from tidelog.embedded.data_dir import DataDirectory, JoinedProcess
from tidelog.embedded.dev_keys import auth_settings
from tidelog.embedded.ports import free_port, read_json
from tidelog.embedded.process import start_mark
from tidelog.embedded.service import Service, ServiceServer
from tidelog.embedded.stack import (
    ADDRESS_SETTINGS,
    DRAIN_MS,
    GRPC_SETTINGS,
    HOST,
    INSTANCES_SETTINGS,
    PORT_SETTINGS,
    SERVICES,
)
from tidelog.errors import ConfigurationError


def run(
    name: Annotated[str, typer.Argument(help="A service, as command_service.")],
    dev: Dev = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 0,
) -> None:
    """Add an instance of a service to a running stack; Ctrl-C ends it."""
    file = dev_file(dev)
    if file is None:
        raise ConfigurationError("no running stack is known: give --dev FILE or set TIDELOG_DEV")
    server = further_instance(_service(name), file, port)
    say(f"{server.name} on {server.url}" + (f", gRPC on {server.grpc}" if server.grpc else ""))
    become(server, DataDirectory(file.resolve().parent))


def become(server: ServiceServer, folder: DataDirectory) -> NoReturn:
    """Turn this process into the instance, which the stack of the folder lists while it lives."""
    mark = start_mark(os.getpid())
    assert mark is not None, "this process lives"
    folder.join(
        JoinedProcess(
            name=server.service.name,
            instance=server.instance,
            pid=os.getpid(),
            mark=mark,
            url=server.url,
            grpc=server.grpc,
        )
    )
    server.prepare()
    launch = server.launch()
    os.chdir(launch.folder or Path.cwd())
    os.execvpe(launch.command[0], launch.command, server.environment())


def further_instance(service: Service, file: Path, port: int = 0) -> ServiceServer:
    """The instance as it joins the stack that dev.json describes; named after this process."""
    instance = f"r{os.getpid()}"
    folder = file.resolve().parent
    title = f"{service.name}-{instance}"
    return ServiceServer(
        service=service,
        instance=instance,
        host=HOST,
        port=port or free_port(HOST),
        settings=_settings(read_dev(file), folder),
        state_dir=folder / "state" / title,
        log=folder / "logs" / f"{title}.log",
        grpc_port=free_port(HOST) if service.grpc else None,
        drain_ms=DRAIN_MS if service.grpc else 0,
    )


def _service(name: str) -> Service:
    for service in SERVICES:
        if service.name == name:
            return service
    names = ", ".join(service.name for service in SERVICES)
    raise ConfigurationError(f"{name} is not a service; there are: {names}")


def _settings(content: dict[str, Any], folder: Path) -> dict[str, str]:
    """The settings that `up` gave its own services."""
    running = {
        process["name"]: process["url"]
        for process in reversed(content["processes"])  # the first instance comes last, and stays
        if process["url"]
    }
    if content["registry"] is not None:
        running["registry"] = content["registry"]["url"]
    settings = {
        setting: running[name] for name, setting in ADDRESS_SETTINGS.items() if name in running
    }
    for name, setting in INSTANCES_SETTINGS.items():
        urls = [process["url"] for process in content["processes"] if process["name"] == name]
        if urls:
            settings[setting] = ",".join(urls)
    settings |= {
        GRPC_SETTINGS[process["name"]]: process["grpc"]
        for process in reversed(content["processes"])
        if process["name"] in GRPC_SETTINGS and process.get("grpc")
    }
    kept = read_json(folder / "stack.json")
    ports: dict[str, int] = kept.get("ports", {})
    settings |= {name: str(ports[name]) for name in PORT_SETTINGS.values() if name in ports}
    partitions = kept.get("partitions")
    if partitions is not None:
        settings["TIDELOG_PARTITIONS"] = str(partitions)
    if content.get("auth") == "on":
        settings |= auth_settings(folder)
    return {
        **settings,
        "TIDELOG_KAFKA_BOOTSTRAP_SERVERS": content["kafka"]["bootstrap_servers"],
        "TIDELOG_POSTGRES_DSN": content["postgres"]["dsn"],
    }
