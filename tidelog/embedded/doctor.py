"""What the stack needs of a machine, checked one by one; each failure names its cure."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import tidelog
from tidelog.embedded.data_dir import DataDirectory
from tidelog.embedded.jars import KAFKA_VERSION, default_cache_dir, locked_jars, missing_jars
from tidelog.embedded.kafka import java
from tidelog.embedded.ports import free_port, is_free, read_json
from tidelog.embedded.postgres import binary
from tidelog.errors import TidelogError

PYTHON_MIN = (3, 11)
DISK_FREE_MIN_BYTES = 2 * 1024**3
MEMORY_FREE_MIN_BYTES = 1024**3
PROGRAM_TIMEOUT_S = 20.0
_LOCKED = re.compile(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)([^\\]*)")


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    name: str
    fine: bool
    detail: str
    cure: str = ""


def examine(data: Path) -> list[Check]:
    """Look at everything that a start needs."""
    return [
        _python(),
        _packages(Path(tidelog.__file__).parent.parent / "requirements.lock"),
        _program("java", java, "-version"),
        _program("postgres", lambda: binary("postgres"), "--version"),
        _jars(),
        _disk(data),
        _memory(),
        _ports(),
        _data_directory(DataDirectory(data)),
    ]


def _python() -> Check:
    return Check(
        name="python",
        fine=sys.version_info >= PYTHON_MIN,
        detail=sys.version.split()[0],
        cure="install Python 3.11 or newer and start ./dev again",
    )


def _packages(lock: Path) -> Check:
    if not lock.exists():
        return Check(name="packages", fine=True, detail="no requirements.lock here to compare with")
    wrong = list(_wrong_packages(lock))
    return Check(
        name="packages",
        fine=not wrong,
        detail="; ".join(wrong[:5]) or "as requirements.lock names them",
        cure="remove the folder .venv and start ./dev again, which installs what is locked",
    )


def _wrong_packages(lock: Path) -> Iterator[str]:
    for line in lock.read_text(encoding="utf-8").splitlines():
        found = _LOCKED.match(line)
        if found is None:
            continue
        name, wanted, marker = found.groups()
        try:
            installed = version(name)
        except PackageNotFoundError:
            if ";" not in marker:  # with a marker it may be for another system
                yield f"{name} is missing"
            continue
        if installed != wanted:
            yield f"{name} is {installed}, locked is {wanted}"


def _program(name: str, find: Callable[[], Path], argument: str) -> Check:
    cure = "the package's programs need Linux with glibc, or macOS; check the folder's permissions"
    try:
        done = subprocess.run(
            [str(find()), argument],
            capture_output=True,
            text=True,
            timeout=PROGRAM_TIMEOUT_S,
            check=False,
        )
    except (TidelogError, OSError, subprocess.TimeoutExpired) as error:
        return Check(name=name, fine=False, detail=str(error), cure=cure)
    said = (done.stdout + done.stderr).strip().partition("\n")[0]
    return Check(name=name, fine=done.returncode == 0, detail=said, cure=cure)


def _jars() -> Check:
    missing = missing_jars()
    count = len(locked_jars())
    return Check(
        name="kafka",
        # Absent altogether is how a new machine looks: the first `up` fetches them.
        fine=len(missing) in (0, count),
        detail=f"{KAFKA_VERSION}, {count - len(missing)} of {count} jars in {default_cache_dir()}",
        cure="./dev up fetches what is missing or damaged; it needs Maven Central for that",
    )


def _disk(data: Path) -> Check:
    folder = _existing(data.resolve())
    free = shutil.disk_usage(folder).free
    writable = os.access(folder, os.W_OK)
    return Check(
        name="disk",
        fine=free >= DISK_FREE_MIN_BYTES and writable,
        detail=f"{free / 1024**3:.1f} GB free at {folder}" + ("" if writable else ", not writable"),
        cure="free 2 GB, or choose another folder with --data",
    )


def _memory() -> Check:
    file = Path("/proc/meminfo")
    if not file.exists():
        return Check(name="memory", fine=True, detail="not known on this system")
    found = re.search(r"MemAvailable:\s+(\d+) kB", file.read_text(encoding="ascii"))
    free = int(found.group(1)) * 1024 if found else MEMORY_FREE_MIN_BYTES
    return Check(
        name="memory",
        fine=free >= MEMORY_FREE_MIN_BYTES,
        detail=f"{free / 1024**3:.1f} GB available",
        cure="the stack takes about 1 GB: end other programs",
    )


def _ports() -> Check:
    try:
        return Check(name="ports", fine=True, detail=f"127.0.0.1 can be used ({free_port()})")
    except (TidelogError, OSError) as error:
        cure = "allow programs to listen on 127.0.0.1"
        return Check(name="ports", fine=False, detail=str(error), cure=cure)


def _data_directory(folder: DataDirectory) -> Check:
    path = folder.path
    if not path.exists():
        return Check(name="data", fine=True, detail=f"{path} is not there yet")
    if folder.is_held():
        return Check(name="data", fine=True, detail=f"a stack runs on {path} ({folder.holder()})")
    if not (path / "stack.json").exists() and any(path.iterdir()):
        cure = "choose another folder with --data"
        return Check(name="data", fine=False, detail=f"{path} holds other files", cure=cure)
    if folder.stale():
        left = ", ".join(f"{process.name} ({process.pid})" for process in folder.stale())
        cure = f"./dev down --data {path} (the next ./dev up does it as well)"
        return Check(name="data", fine=False, detail=f"left by a killed stack: {left}", cure=cure)
    taken = [port for port in _kept_ports(path) if not is_free("127.0.0.1", port)]
    detail = f"{path}: a stack's data, nothing runs"
    if taken:
        detail += f"; ports taken meanwhile, others will be used: {taken}"
    return Check(name="data", fine=True, detail=detail)


def _kept_ports(path: Path) -> list[int]:
    ports: dict[str, int] = read_json(path / "stack.json").get("ports", {})
    servers = [read_json(path / name / "server.json") for name in ("kafka", "postgres")]
    return [*ports.values(), *(int(server["port"]) for server in servers if "port" in server)]


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())
