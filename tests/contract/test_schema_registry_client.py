"""What the registry's client adds, and the registry as a process."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.registry_server import EVENTS, NOTE, order_placed, running
from tidelog.errors import CodecError, Unavailable
from tidelog.registry import (
    RegistryClient,
)
from tidelog.registry.log import MemoryLog


class TestTheClient:
    """What the client adds: it is patient, remembers, and does not believe everything."""

    def test_ids_that_are_known_work_while_the_registry_is_down(self) -> None:
        with running(MemoryLog()) as url:
            client = RegistryClient(url, attempts_max=2)
            schema_id = client.register(EVENTS, order_placed())
        assert client.schema(schema_id) == json.loads(order_placed())
        assert client.register(EVENTS, order_placed()) == schema_id
        with pytest.raises(Unavailable):
            client.schema(schema_id + 1)
        client.close()

    def test_a_registry_that_is_not_there_is_unavailable(self) -> None:
        with (
            contextlib.closing(RegistryClient("http://127.0.0.1:1", attempts_max=2)) as client,
            pytest.raises(Unavailable),
        ):
            client.check(EVENTS, order_placed())

    def test_a_registry_that_hangs_is_unavailable(self) -> None:
        with (
            answering(answer_late) as url,
            contextlib.closing(RegistryClient(url, timeout_s=0.1, attempts_max=2)) as client,
            pytest.raises(Unavailable),
        ):
            client.schema(1)

    def test_a_failure_that_passes_is_not_seen(self) -> None:
        answers = iter([(503, {}), (500, {}), (200, {"schema": '"int"'})])
        with (
            answering(lambda: next(answers)) as url,
            contextlib.closing(RegistryClient(url)) as client,
        ):
            assert client.schema(1) == "int"

    @pytest.mark.parametrize("answer", [[], {}, {"id": "1"}, {"id": True}])
    def test_an_answer_of_another_form_is_refused(self, answer: object) -> None:
        with (
            answering(lambda: (200, answer)) as url,
            contextlib.closing(RegistryClient(url)) as client,
            pytest.raises(CodecError),
        ):
            client.register(EVENTS, order_placed())

    def test_a_known_id_with_another_schema_is_refused(self) -> None:
        with (
            answering(lambda: (200, {"id": 1})) as url,
            contextlib.closing(RegistryClient(url)) as client,
        ):
            client.register(EVENTS, order_placed())
            with pytest.raises(CodecError, match="another schema"):
                client.register(EVENTS, order_placed(NOTE))
            with pytest.raises(CodecError, match="another schema"):
                client.lookup(EVENTS, order_placed(NOTE))

    def test_pins_of_an_earlier_run_are_held(self) -> None:
        with (
            answering(lambda: (200, {"schema": '"int"'})) as url,
            contextlib.closing(RegistryClient(url)) as earlier,
        ):
            assert earlier.schema(1) == "int"
        with (
            answering(lambda: (200, {"schema": '"long"'})) as url,
            contextlib.closing(RegistryClient(url, pins=earlier.pins())) as later,
            pytest.raises(CodecError, match="another schema"),
        ):
            later.schema(1)

    def test_a_schema_that_no_decoder_survives_is_refused_whoever_serves_it(
        self,
    ) -> None:
        bomb = '{"type":"array","items":"null"}'
        with (
            answering(lambda: (200, {"schema": bomb})) as url,
            contextlib.closing(RegistryClient(url)) as client,
            pytest.raises(CodecError, match="no bytes"),
        ):
            client.schema(1)


class TestTheProcess:
    """`python -m tidelog.registry` as it is run."""

    def test_it_tells_where_it_listens_and_stops_cleanly(self, kafka: str, namespace: str) -> None:
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("TIDELOG_")
        } | {
            "TIDELOG_KAFKA_BOOTSTRAP_SERVERS": kafka,
            "TIDELOG_TOPIC_PREFIX": namespace,
        }
        with subprocess.Popen(
            [sys.executable, "-m", "tidelog.registry"],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stderr is not None
            found = None
            while found is None and (line := process.stderr.readline()):
                found = re.search(r"http://127\.0\.0\.1:\d+", line)
            assert found is not None, "it did not tell where it listens"
            with contextlib.closing(RegistryClient(found.group())) as client:
                assert client.register(EVENTS, order_placed()) == 1
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)
            assert process.returncode == 0


def answer_late() -> tuple[int, object]:
    time.sleep(1)
    return 200, {}


@contextlib.contextmanager
def answering(answer: Callable[[], tuple[int, object]]) -> Iterator[str]:
    """A server that gives every request the same kind of answer, right or wrong."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def respond(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
            status, content = answer()
            body = json.dumps(content).encode()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        def do_GET(self) -> None:
            self.respond()

        def do_POST(self) -> None:
            self.respond()

        def log_message(self, *_: object) -> None:
            """Say nothing on stderr."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
