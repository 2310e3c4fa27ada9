"""A whole system of a run's own, started by its command line and stopped at the end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

START_TIMEOUT_S = 1_800.0
STOP_TIMEOUT_S = 60.0


@contextlib.contextmanager
def system(
    dev_file: Path | None,
    external: Mapping[str, str] | None = None,
    without: Sequence[str] = (),
    scale: Mapping[str, int] | None = None,
) -> Iterator[Path]:
    """The system that `dev_file` describes, or one of our own in a folder of its own.

    `external` are settings that say where a part of it runs already; `without` names services that
    are left out, `scale` says how many instances there are of others.
    """
    if dev_file is not None:
        yield dev_file
        return
    with folder_for_servers() as folder:
        data = folder / "data"
        command = [sys.executable, "-m", "tidelog.cli", "up", "--no-seed", "--data", str(data)]
        numbers = {**dict.fromkeys(without, 0), **(scale or {})}
        command += [f"--scale={name}={number}" for name, number in numbers.items()]
        variables = {**os.environ, **(external or {})}
        process = subprocess.Popen(command, stdout=sys.stderr, env=variables)
        try:
            yield _ready(process, data / "dev.json")
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(STOP_TIMEOUT_S)


@contextlib.contextmanager
def folder_for_servers() -> Iterator[Path]:
    """A folder that other users may pass (PostgreSQL runs as nobody), removed at the end."""
    with tempfile.TemporaryDirectory(prefix="tidelog-torture-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        yield folder


def _ready(process: subprocess.Popen[bytes], dev_file: Path) -> Path:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not dev_file.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("the system did not start; its lines above say why")
        time.sleep(0.1)
    return dev_file
