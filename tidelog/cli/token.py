"""`tidelog token` and `tidelog api-key`: what a caller shows at the gateway while auth is on."""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path
from typing import Annotated

import typer

from tidelog.cli.output import DATA_DEFAULT, Dev, Json, say, show_json
from tidelog.cli.system import dev_file, read_dev
from tidelog.embedded.dev_keys import LIFETIME_S, SCOPES, dev_token
from tidelog.errors import ConfigurationError

LIFETIME_S_MAX = 30 * 86_400

Scopes = Annotated[
    list[str], typer.Option("--scope", help=f"{', '.join(SCOPES)}; may be repeated.")
]


def token(
    subject: Annotated[str, typer.Option("--subject", help="Whose: of a customer, their id.")],
    scope: Scopes,
    dev: Dev = None,
    lifetime: Annotated[
        int, typer.Option(min=1, max=LIFETIME_S_MAX, help="In how many seconds it expires.")
    ] = LIFETIME_S,
    as_json: Json = False,
) -> None:
    """Print a token for a stack that runs with --auth, signed with its development key."""
    made = dev_token(data_folder(dev), _subject(subject), _known(scope), lifetime)
    if as_json:
        show_json({"token": made, "subject": subject, "scopes": scope, "expires_in": lifetime})
        return
    print(made, flush=True)


def api_key(
    name: Annotated[str, typer.Option("--name", help="Of the machine.")],
    scope: Scopes,
    as_json: Json = False,
) -> None:
    """Make an API key for a machine: the key, and the line for TIDELOG_GATEWAY_API_KEYS_FILE."""
    key = f"tlk_{secrets.token_urlsafe(32)}"
    hashed = hashlib.sha256(key.encode("ascii")).hexdigest()
    show_json({"key": key, "listed": {"name": name, "sha256": hashed, "scopes": _known(scope)}})
    if not as_json:
        say("`key` is shown this once: give it to the machine. `listed` goes into the file.")


def authorization(dev: Path | None, subject: str, scope: str) -> dict[str, str]:
    """The headers by which a command of this program is let in.

    TIDELOG_TOKEN where it is set; else, of a stack with `--auth`, a token with its own key; else
    nothing is asked.
    """
    given = os.environ.get("TIDELOG_TOKEN")
    if given:
        return {"Authorization": f"Bearer {given}"}
    file = dev_file(dev)
    if file is None or read_dev(file).get("auth") != "on":
        return {}
    made = dev_token(file.resolve().parent, _subject(subject), [scope])
    return {"Authorization": f"Bearer {made}"}


def data_folder(dev: Path | None) -> Path:
    """The data directory of the stack that is meant."""
    file = dev_file(dev)
    return file.resolve().parent if file is not None else DATA_DEFAULT


def _known(scopes: list[str]) -> list[str]:
    for scope in scopes:
        if scope not in SCOPES:
            raise ConfigurationError(f"--scope {scope}: there are {', '.join(SCOPES)}")
    return scopes


def _subject(text: str) -> str:
    if not (0 < len(text) <= 128 and all("!" <= each <= "~" for each in text)):
        raise ConfigurationError(
            "the name that a token is made out to has 1 to 128 printable ASCII characters, no space"
        )
    return text
