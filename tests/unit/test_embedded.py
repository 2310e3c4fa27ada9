"""The pure parts of the embedded stack."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from gateway.instances import PROBE_INTERVAL_S, PROBE_TIMEOUT_S
from tidelog.cli.run import further_instance
from tidelog.cli.system import find_system
from tidelog.embedded.data_dir import DataDirectory, RecordedProcess, recorded
from tidelog.embedded.doctor import examine
from tidelog.embedded.jars import Jar, locked_jars
from tidelog.embedded.ports import free_port, is_free, read_json, write_json
from tidelog.embedded.process import Launch, kill, rotate, spawn, start_mark, stop, tail
from tidelog.embedded.service import Service
from tidelog.embedded.stack import (
    DRAIN_MS,
    SERVICES,
    Options,
    Stack,
    check_scale,
    external_parts,
)
from tidelog.embedded.supervisor import Member, levels
from tidelog.errors import ConfigurationError

SLEEP = (sys.executable, "-c", "import time; time.sleep(60)")


def test_a_process_is_told_from_a_later_one_with_its_pid(tmp_path: Path) -> None:
    process = spawn(Launch(command=SLEEP, log=tmp_path / "log"))
    mark = start_mark(process.pid)

    assert mark is not None
    assert start_mark(process.pid) == mark
    assert start_mark(os.getpid()) != mark

    kill(process)
    assert start_mark(process.pid) is None


def test_a_process_that_ignores_its_signal_is_killed(tmp_path: Path) -> None:
    deaf = "import signal, time; signal.signal(15, 1); print('deaf', flush=True); time.sleep(60)"
    log = tmp_path / "log"
    process = spawn(Launch(command=(sys.executable, "-c", deaf), log=log))
    while "deaf" not in log.read_text():
        assert process.poll() is None

    stop(process, signal.SIGTERM, timeout_s=0.2)

    assert process.returncode == -signal.SIGKILL


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_a_child_ends_with_its_killed_parent(tmp_path: Path) -> None:
    parent = (
        "import sys, time; from pathlib import Path;"
        "from tidelog.embedded.process import Launch, spawn;"
        "child = spawn(Launch(command=(sys.executable, '-c', 'import time; time.sleep(60)'),"
        "log=Path(sys.argv[1]))); print(child.pid, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", parent, str(tmp_path / "log")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert process.stdout is not None
    child = int(process.stdout.readline())
    mark = start_mark(child)

    process.kill()
    process.communicate()

    while mark is not None and start_mark(child) == mark:
        pass  # bounded by the sixty seconds that the child sleeps


def test_a_long_log_is_set_aside_and_its_tail_is_shown(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "x.log"
    rotate(log, bytes_max=10)
    log.write_text("".join(f"line {number}\n" for number in range(100)))
    assert tail(log, lines_max=2) == "line 98\nline 99"

    rotate(log, bytes_max=10)

    assert not log.exists()
    assert log.with_name("x.log.1").exists()


def test_a_file_with_a_password_is_for_its_owner_only(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    write_json(file, {"a": 1})

    assert read_json(file) == {"a": 1}
    assert file.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.json"]


def test_a_partial_and_a_corrupt_jar_are_found(tmp_path: Path) -> None:
    content = b"the whole jar"
    jar = Jar("org.example:thing:1.0", len(content), hashlib.sha256(content).hexdigest())
    path = jar.path(tmp_path)
    path.parent.mkdir(parents=True)
    assert not jar.is_whole(tmp_path)

    path.write_bytes(content)
    assert jar.is_whole(tmp_path)
    path.write_bytes(content[:5])
    assert not jar.is_whole(tmp_path)
    path.write_bytes(b"THE WHOLE JAR")
    assert not jar.is_whole(tmp_path)


def test_the_lock_names_kafka_and_a_logger() -> None:
    coordinates = [jar.coordinate for jar in locked_jars()]

    assert "org.apache.kafka:kafka_2.13:4.3.1" in coordinates
    assert "org.slf4j:slf4j-simple:1.7.36" in coordinates


def test_a_folder_with_other_files_is_refused_even_with_fresh(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")

    with pytest.raises(ConfigurationError, match=r"no stack\.json"), held(tmp_path):
        pass

    assert (tmp_path / "thesis.txt").exists()


def test_a_held_folder_names_its_holder(tmp_path: Path) -> None:
    with held(tmp_path):
        assert DataDirectory(tmp_path).is_held()
        with pytest.raises(ConfigurationError, match=f"pid {os.getpid()}"), held(tmp_path):
            pass
    assert not DataDirectory(tmp_path).is_held()


def test_the_partition_count_is_pinned(tmp_path: Path) -> None:
    folder = DataDirectory(tmp_path)

    assert folder.settle(None, default=4) == 4
    assert folder.settle(4, default=9) == 4
    with pytest.raises(ConfigurationError, match="pinned"):
        folder.settle(5, default=4)


def test_a_port_is_kept_while_it_can_be_had(tmp_path: Path) -> None:
    folder = DataDirectory(tmp_path)
    folder.settle(None, default=4)
    port = folder.port("gateway-1")

    assert folder.port("gateway-1") == port
    assert folder.port("gateway-2") != port
    assert folder.port("gateway-1", wanted=free_port()) != port
    assert is_free("127.0.0.1", port)


def test_what_is_left_is_stopped_but_not_a_stranger_with_its_pid(tmp_path: Path) -> None:
    folder = DataDirectory(tmp_path)
    left = spawn(Launch(command=SLEEP, log=tmp_path / "log"))
    stranger = RecordedProcess(name="x", instance="1", pid=os.getpid(), mark="an earlier one")
    mine = recorded("kafka", "1", left.pid, int(signal.SIGTERM))
    assert mine is not None
    folder.record([mine, stranger])

    assert folder.stop_stale() == [mine]
    assert left.wait(10) == -signal.SIGTERM


def test_levels_follow_the_needs() -> None:
    members = [member("gateway", "query"), member("query", "kafka"), member("kafka")]

    assert levels(members) == [{"kafka"}, {"query"}, {"gateway"}]
    with pytest.raises(ValueError, match="circle"):
        levels([member("a", "b"), member("b", "a")])


def test_every_need_of_the_table_is_in_the_table() -> None:
    names = {"kafka", "postgres", *(service.name for service in SERVICES)}

    assert {need for service in SERVICES for need in service.depends_on} <= names
    assert levels([member(service.name, *service.depends_on) for service in SERVICES])


def test_a_scale_is_checked() -> None:
    check_scale({"command_service": 3, "sagas": 0})
    with pytest.raises(ConfigurationError, match="not one of"):
        check_scale({"kafka": 2})
    with pytest.raises(ConfigurationError, match="not 1 to"):
        check_scale({"command_service": 0})
    with pytest.raises(ConfigurationError, match="not 1 to 1"):
        check_scale({"mail": 2})


def test_parts_elsewhere_are_known_by_their_settings() -> None:
    found = external_parts(
        {"TIDELOG_KAFKA_BOOTSTRAP_SERVERS": "k:9092", "TIDELOG_REGISTRY_URL": ""}
    )

    assert found == {"kafka": "k:9092"}


def test_a_further_instance_finds_everything_in_dev_json(tmp_path: Path) -> None:
    file = dev_json(tmp_path)
    service = Service(name="command_service", module="command_service", depends_on=())

    settings = further_instance(service, file).environment()

    assert settings["TIDELOG_KAFKA_BOOTSTRAP_SERVERS"] == "127.0.0.1:9092"
    assert settings["TIDELOG_REGISTRY_URL"] == "http://127.0.0.1:3"
    assert settings["TIDELOG_QUERY_SERVICE_URL"] == "http://127.0.0.1:1"
    assert settings["TIDELOG_QUERY_SERVICE_GRPC"] == "127.0.0.1:11"
    assert settings["TIDELOG_PARTITIONS"] == "7"
    assert settings["TIDELOG_SMTP_PORT"] == "5"
    assert settings["TIDELOG_INSTANCE"] == f"r{os.getpid()}"


def test_a_further_command_service_has_a_grpc_port(tmp_path: Path) -> None:
    service = next(each for each in SERVICES if each.name == "command_service")

    server = further_instance(service, dev_json(tmp_path))

    settings = server.environment()
    assert server.grpc == f"127.0.0.1:{settings['TIDELOG_GRPC_PORT']}"


def test_a_stack_of_three_command_services_lists_them_all(tmp_path: Path) -> None:
    options = Options(data=tmp_path, scale={"command_service": 3})
    stack = Stack(options, DataDirectory(tmp_path), print)

    servers = [each for each in stack._servers if each.service.name == "command_service"]

    assert len({each.grpc for each in servers} | {each.url for each in servers}) == 6
    listed = stack.settings["TIDELOG_COMMAND_SERVICE_INSTANCES"].split(",")
    assert listed == [each.url for each in servers]
    assert {each.environment()["TIDELOG_DRAIN_MS"] for each in servers} == {str(DRAIN_MS)}


def test_the_gateway_is_told_where_the_stock_is_asked(tmp_path: Path) -> None:
    stack = Stack(Options(data=tmp_path), DataDirectory(tmp_path), print)

    (queries,) = (each for each in stack._servers if each.service.name == "query_service")

    assert queries.grpc == stack.settings["TIDELOG_QUERY_SERVICE_GRPC"]
    assert queries.environment()["TIDELOG_GRPC_PORT"] == str(queries.grpc_port)


def test_an_instance_that_stops_serves_on_for_longer_than_the_gateway_takes_to_see_it() -> None:
    assert DRAIN_MS / 1_000 > PROBE_INTERVAL_S + PROBE_TIMEOUT_S


def test_the_command_line_finds_a_system_by_its_dev_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDELOG_DEV", str(dev_json(tmp_path)))

    system = find_system()

    assert system.query_url == "http://127.0.0.1:1"
    assert system.gateway_url is None
    with pytest.raises(ConfigurationError, match="is not there"):
        find_system(tmp_path / "other.json")


def test_the_doctor_names_a_cure_for_each_failure(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")

    checks = {check.name: check for check in examine(tmp_path)}

    assert checks["python"].fine
    assert checks["java"].fine
    assert not checks["data"].fine
    assert all(check.cure for check in checks.values() if not check.fine)


def held(path: Path) -> AbstractContextManager[None]:
    return DataDirectory(path).held()


def member(name: str, *needs: str) -> Member:
    server = DummyServer(name)
    return Member(name=name, instance="1", server=server, depends_on=needs)


class DummyServer:
    """A server that is never started."""

    def __init__(self, name: str) -> None:
        self.name = name

    def prepare(self) -> None:
        """Nothing."""

    def launch(self) -> Launch:
        """Nothing to run."""
        raise AssertionError(self.name)

    def ready(self) -> bool:
        """Never."""
        return False

    def trouble(self) -> str | None:
        """It says nothing but in its log."""
        return None


def dev_json(folder: Path) -> Path:
    (folder / "stack.json").write_text(
        json.dumps({"partitions": 7, "ports": {"TIDELOG_SMTP_PORT": 5}})
    )
    file = folder / "dev.json"
    query = {"name": "query_service", "instance": "1", "pid": 1, "url": "http://127.0.0.1:1"}
    query["grpc"] = "127.0.0.1:11"
    second = {**query, "instance": "2", "url": "http://127.0.0.1:2", "grpc": "127.0.0.1:12"}
    content = {
        "gateway": None,
        "query": {"url": "http://127.0.0.1:1"},
        "registry": {"url": "http://127.0.0.1:3"},
        "kafka": {"bootstrap_servers": "127.0.0.1:9092"},
        "postgres": {"dsn": "postgresql://127.0.0.1:5432/postgres"},
        "processes": [query, second],
    }
    file.write_text(json.dumps(content))
    return file
