"""The worker processes of a rebuild, when their parent dies or a task fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.log_writer import until
from tidelog.errors import LogHole, TidelogError
from tidelog.rebuild.site import Report, Site
from tidelog.rebuild.workers import Workers, World

WORLD = World(
    site=Site(
        bootstrap_servers="",
        registry_url="",
        dsn="",
        schema="",
        topic_prefix="",
        projections="",
    ),
    projection="none",
)
PARENT = """
import sys, time
from tidelog.rebuild.workers import Workers
if sys.argv[1] == "with a thread":
    import threading
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
workers = Workers(3)
print(*(process.pid for process in workers._processes.values()), flush=True)
time.sleep(600)
"""


@dataclass(frozen=True)
class Double:
    """Doubles a number; a negative one is a hole."""

    number: int

    def run(self, _world: World, report: Report) -> int:
        if self.number < 0:
            raise LogHole("a hole")
        if report(1):
            raise TidelogError("stopped")
        return self.number * 2


def alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        return stat.rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("how", ["without threads", "with a thread"])
def test_workers_end_when_their_parent_is_killed(how: str) -> None:
    """Forked or started anew: nobody holds on to the other end of another's pipe."""
    with subprocess.Popen([sys.executable, "-c", PARENT, how], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 3
        os.kill(parent.pid, signal.SIGKILL)

    until(lambda: not any(map(alive, pids)), "the workers end")


def test_workers_take_further_tasks_after_one_has_failed() -> None:
    advanced: list[int] = []
    with closing(Workers(2)) as workers:
        with pytest.raises(LogHole, match="a hole"):
            workers.run(WORLD, [Double(number) for number in (1, -1, 2, 3)], advanced.append)
        found = workers.run(WORLD, [Double(number) for number in range(6)], advanced.append)

    assert found == [0, 2, 4, 6, 8, 10]
