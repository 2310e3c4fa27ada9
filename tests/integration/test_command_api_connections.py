"""Connections that misbehave: too much, too slow, without end, and headers without measure."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.integration.command_server import (
    HEAD,
    MARKER,
    CommandServer,
    command_server,
    order_body,
    raw_problem,
    read_until_silent,
    refused,
)
from tidelog.http.protocol import BoundedProtocol


class HastyProtocol(BoundedProtocol):
    """Waits half a second for the head of a request."""

    head_timeout_s = 0.5


@pytest.fixture(scope="module")
def running() -> Iterator[CommandServer]:
    with command_server() as server:
        yield server


@pytest.fixture(scope="module")
def hasty() -> Iterator[CommandServer]:
    """A server that waits half a second for head and body."""
    with command_server(body_timeout_ms=500, protocol=HastyProtocol) as server:
        yield server
        assert server.event_count() == 0


@pytest.fixture
def server(running: CommandServer) -> Iterator[CommandServer]:
    """The server; a test that leaves an event behind fails."""
    before = running.event_count()
    yield running
    assert running.event_count() == before, "a refused command leaves no event"


@pytest.fixture
def lasting(running: CommandServer) -> CommandServer:
    """The server, for tests whose first command is good."""
    return running


def test_B17_a_body_of_50_megabytes_is_too_large(server: CommandServer) -> None:
    refused(server.place("b17", b" " * 50 * 1024 * 1024), 413)


def test_B17_a_chunked_body_without_length_is_too_large_once_it_is(server: CommandServer) -> None:
    chunks = iter([MARKER.encode() * 1_000] * 600)
    answer = server.client.post(
        "/orders/b17/place-order",
        content=chunks,
        headers={"Content-Type": "application/json"},
    )
    refused(answer, 413)


def test_B17_an_endless_body_ends_in_bounded_time(server: CommandServer) -> None:
    port = int(server.url.rsplit(":", 1)[1])
    chunk = b"10000\r\n" + b" " * 65_536 + b"\r\n"
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(HEAD + b"transfer-encoding: chunked\r\n\r\n")
        with suppress(OSError):  # The server closes on us, sooner or later.
            while time.monotonic() - began < 20:
                connection.sendall(chunk)
    assert time.monotonic() - began < 10


def test_B17_a_small_chunked_body_is_good(lasting: CommandServer) -> None:
    answer = lasting.client.post(
        "/orders/b17-chunked/place-order",
        content=iter([json.dumps(order_body()).encode()]),
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code == 201


@pytest.mark.parametrize("length", [b"content-length: 500\r\n", b"transfer-encoding: chunked\r\n"])
def test_B17_a_slow_body_is_given_up(hasty: CommandServer, length: bytes) -> None:
    port = int(hasty.url.rsplit(":", 1)[1])
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(HEAD + length + b"\r\n")
        connection.settimeout(0.2)
        received = b""
        while not received and time.monotonic() - began < 5:
            connection.sendall(b" " if length.startswith(b"content") else b"1\r\n \r\n")
            try:
                received = connection.recv(65_536)
            except TimeoutError:
                continue
        received += read_until_silent(connection, 1)
    raw_problem(received, 408, "request-timeout")
    assert 0.4 < time.monotonic() - began < 8


@pytest.mark.parametrize("sent", [b"POST /orders/x/pl", HEAD, HEAD + b"x-a: b"])
def test_B17_a_slow_head_is_given_up(hasty: CommandServer, sent: bytes) -> None:
    raw_problem(hasty.raw(sent), 408, "request-timeout")


def test_B17_a_silent_connection_is_closed(hasty: CommandServer) -> None:
    began = time.monotonic()
    assert hasty.raw(b"") == b""
    assert time.monotonic() - began < 5


def test_B24_a_token_of_a_megabyte_is_too_large_a_header(server: CommandServer) -> None:
    for size in (33_000, 300_000, 1_000_000):
        token = MARKER.encode() + b"x" * size
        answer = server.raw(HEAD + b"authorization: Bearer " + token + b"\r\n\r\n")
        raw_problem(answer, 431, "headers-too-large")


def test_B36_a_head_of_just_under_32_kib_passes(server: CommandServer) -> None:
    answer = server.raw(HEAD + b"x-any: " + b"x" * 32_000 + b"\r\ncontent-length: 0\r\n\r\n")
    raw_problem(answer, 400, "malformed")


def test_B36_many_small_headers_are_counted_together(server: CommandServer) -> None:
    few = b"".join(b"x-%d: forged\r\n" % n for n in range(1_000))
    answer = server.raw(HEAD + few + b"content-length: 0\r\n\r\n")
    raw_problem(answer, 400, "malformed")
    answer = server.raw(HEAD + few * 3 + b"content-length: 0\r\n\r\n")
    raw_problem(answer, 431, "headers-too-large")


@pytest.mark.parametrize(
    ("given", "answered"),
    [
        ("visit 1", "visit1"),
        ("a\tb", "ab"),
        ('<script>"x"', "scriptx"),
        ("x" * 500, "x" * 128),
        ("urn:uuid:1", "urn:uuid:1"),
    ],
)
def test_B36_a_correlation_id_is_stripped_and_capped(
    server: CommandServer, given: str, answered: str
) -> None:
    answer = server.post("/orders/b36/cancel-order", {"reason": "x"}, X_Correlation_Id=given)
    assert answer.headers["x-correlation-id"] == answered
    nothing = server.post("/orders/b36/cancel-order", {"reason": "x"}, X_Correlation_Id='"\\"')
    assert len(nothing.headers["x-correlation-id"]) == 36
