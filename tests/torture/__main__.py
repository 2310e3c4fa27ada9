"""`./dev torture`: starts a system of its own, tortures it, and says what it has seen.

./dev torture kills --kills 20 --clients 16 --seed 1
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.torture.kills import Run, describe

START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 60.0


def main() -> int:
    """Exit 0 where nothing was lost, doubled or torn; 1 otherwise."""
    arguments = _parser().parse_args()
    print(f"seed {arguments.seed}", flush=True)
    with system(arguments.dev) as dev_file:
        run = Run(dev_file, arguments.seed, arguments.kills, arguments.clients)
        result = asyncio.run(run.play())
    print(describe(result))
    for fault in result.faults[:20]:
        print(f"FAULT {fault}")
    return 1 if result.faults else 0


@contextlib.contextmanager
def system(dev_file: Path | None) -> Iterator[Path]:
    """The system that `dev_file` describes, or one of our own in a folder of its own."""
    if dev_file is not None:
        yield dev_file
        return
    with tempfile.TemporaryDirectory(prefix="tidelog-torture-") as folder:
        Path(folder).chmod(0o711)
        data = Path(folder) / "data"
        command = [sys.executable, "-m", "tidelog.cli", "up", "--no-seed", "--data", str(data)]
        process = subprocess.Popen(command, stdout=sys.stderr, env={**os.environ})
        try:
            yield _ready(process, data / "dev.json")
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(STOP_TIMEOUT_S)


def _ready(process: subprocess.Popen[bytes], dev_file: Path) -> Path:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not dev_file.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("the system did not start; its lines above say why")
        time.sleep(0.1)
    return dev_file


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./dev torture", description=__doc__)
    parser.add_argument("what", choices=["kills"], help="SIGKILL of the command service")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--dev", type=Path, help="dev.json of a running system")
    return parser


if __name__ == "__main__":
    sys.exit(main())
