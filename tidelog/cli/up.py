"""`tidelog up` and `tidelog down`: the whole system on this machine."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NoReturn

import typer

from tidelog.cli.output import (
    DATA_DEFAULT,
    FAILURE,
    Data,
    Json,
    say,
    show_json,
)
from tidelog.embedded.data_dir import DataDirectory
from tidelog.embedded.stack import Options, check_scale, external_parts, run
from tidelog.errors import ConfigurationError, TidelogError

DOWN_TIMEOUT_S = 90.0
POLL_S = 0.1
_NAMED = ("gateway", "query", "registry", "payment_provider", "carrier", "mail")


def up(
    data: Data = DATA_DEFAULT,
    fresh: Annotated[bool, typer.Option("--fresh", help="Throw the stack's data away.")] = False,
    no_seed: Annotated[bool, typer.Option("--no-seed", help="Start without example data.")] = False,
    scale: Annotated[
        list[str] | None, typer.Option(help="NAME=N: that many instances of a service.")
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The gateway's port; 0: the kept or a free one.")
    ] = 0,
    partitions: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Per topic, for new data  [default: 4]")
    ] = None,
    auth: Annotated[bool, typer.Option("--auth", help="Turn authentication on.")] = False,
    as_json: Json = False,
) -> None:
    """Start everything and keep it running; Ctrl-C stops it."""
    options = Options(
        data=data,
        fresh=fresh,
        with_seed=not no_seed,
        auth=auth,
        scale=_scale(scale or ()),
        gateway_port=port,
        partitions=partitions,
        external=external_parts(os.environ),
    )
    check_scale(options.scale)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        run(options, say, lambda content: _show(options, content, as_json))
    except KeyboardInterrupt:
        say("stopped")
    except TidelogError as error:
        say(f"up has ended: {error}")
        raise typer.Exit(FAILURE) from None


def down(data: Data = DATA_DEFAULT, as_json: Json = False) -> None:
    """Stop the stack that runs on the data directory."""
    folder = DataDirectory(data)
    holder = folder.holder() if folder.is_held() else None
    if holder is not None:
        say(f"stopping the stack on {folder.path} (pid {holder})")
        os.kill(holder, signal.SIGTERM)
        _until_free(folder)
    left = folder.stop_stale()
    for process in left:
        say(f"stopped {process.name}-{process.instance} ({process.pid}), left by a killed stack")
    if holder is None and not left:
        say(f"nothing runs on {folder.path}")
    folder.withdraw()
    if as_json:
        show_json({"data": str(folder.path), "stopped": holder is not None or bool(left)})


def _until_free(folder: DataDirectory) -> None:
    deadline = time.monotonic() + DOWN_TIMEOUT_S
    while folder.is_held():
        if time.monotonic() > deadline:
            say(f"the stack has not stopped in {DOWN_TIMEOUT_S:.0f} s; its logs: {folder.logs}")
            raise typer.Exit(FAILURE)
        time.sleep(POLL_S)


def _scale(given: Sequence[str]) -> dict[str, int]:
    scale = {}
    for part in given:
        name, _, number = part.partition("=")
        if not number.isdigit():
            raise ConfigurationError(f"--scale {part}: write NAME=N, as in command_service=3")
        scale[name] = int(number)
    return scale


def _show(options: Options, content: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        show_json(content)
        return
    print(f"\nTidelog is ready. {(options.data / 'dev.json').resolve()}")
    for name in _NAMED:
        if content[name] is not None:
            print(f"  {name:<17}{content[name]['url']}")
    print(f"  {'kafka':<17}{content['kafka']['bootstrap_servers']}")
    print(f"  {'postgres':<17}{content['postgres']['dsn']}")
    if content["auth"] == "on":
        print("\nAuthentication is on at the gateway. A token for a customer:")
        print("  ./dev tidelog token --subject ada --scope customer")
    else:
        print("\nAUTHENTICATION IS OFF: every caller on this machine may do everything.")
    print("Ctrl-C stops all; the data stays.", flush=True)


def _interrupt(*_: object) -> NoReturn:
    """Let SIGTERM end the preparations as Ctrl-C does; later the stack listens itself."""
    raise KeyboardInterrupt
