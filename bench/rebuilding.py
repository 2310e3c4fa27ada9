"""`tidelog projection rebuild` as R6 sees it: the only file here that knows the command."""

from __future__ import annotations

import os
import subprocess
import sys
from time import perf_counter
from typing import Any

import msgspec

from bench.backends import backends_of
from bench.event_log import PARTITIONS, LogSpec, schema_of
from bench.projecting import SUMMARY
from bench.sample import Sample, Stopwatch
from bench.stack import FOLDER, Stack, service_environment

TIMEOUT_S = 600.0
COMMAND = (sys.executable, "-m", "tidelog.cli", "projection")


class RebuildSide:
    """Rebuilds the read model from the first event on, by the command that people use.

    The rate is by the seconds that the command tells: those of the bulk load alone, or those up to
    the switch, with the proof against the log in them. The time of the whole process, start and
    imports included, stands beside it.
    """

    def __init__(self, stack: Stack, log: LogSpec, workers: int, timed: str = "seconds") -> None:
        self._timed = timed
        self._log, self._backends = log, backends_of(stack)
        self._options = [f"--workers={workers}"]
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith("TIDELOG_")
        }
        self._environment = {
            **inherited,
            **service_environment(stack, log.prefix, PARTITIONS),
            "TIDELOG_POSTGRES_SCHEMA": schema_of(log.prefix),
        }

    def run(self, _seconds: float) -> Sample:
        """One whole rebuild; then the old generation goes."""
        watch, begun = Stopwatch(self._backends), perf_counter()
        cpu = os.times().children_user + os.times().children_system
        told = self._command("rebuild", *self._options)
        whole_s = perf_counter() - begun
        sample = watch.sample(told["events"])
        used = os.times().children_user + os.times().children_system - cpu
        assert told["events"] == self._log.events, f"{told} of {self._log.events} events"
        assert told["switched"], told
        self._command("drop-old")
        return Sample(
            operations=told["events"],
            seconds=told[self._timed],
            cpu_s=used,
            backend_cpu_s=sample.backend_cpu_s,
            extra={"load s": told["load_seconds"], "whole process s": whole_s},
        )

    def close(self) -> None:
        """The tables go with their schema."""

    def _command(self, name: str, *options: str) -> dict[str, Any]:
        done = subprocess.run(
            [*COMMAND, name, SUMMARY, "--json", *options],
            cwd=FOLDER,
            env=self._environment,
            timeout=TIMEOUT_S,
            capture_output=True,
            check=False,
        )
        errors = done.stderr.decode(errors="replace")
        assert done.returncode == 0, f"{name} ended with {done.returncode}:\n{errors}"
        return msgspec.json.decode(done.stdout, type=dict[str, Any])
