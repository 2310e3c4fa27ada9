"""Bad input at the command API: never a 5xx, never an event, never the input in the answer."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from tests.integration.command_server import (
    HEAD,
    MARKER,
    CommandServer,
    command_server,
    order_body,
    raw_problem,
    refused,
)


@pytest.fixture(scope="module")
def running() -> Iterator[CommandServer]:
    with command_server() as server:
        yield server


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


def lines(**changes: Any) -> dict[str, Any]:
    line = {"sku": "tea", "quantity": 2, "unit_price": 350, **changes}
    return order_body(lines=[line])


def raw_lines(name: str, text: str) -> bytes:
    """A body in which one field of the line is this JSON text."""
    return json.dumps(lines(**{name: MARKER})).replace(f'"{MARKER}"', text).encode()


@pytest.mark.parametrize("body", [b"", b" ", b"\n"])
def test_B01_an_empty_body_is_malformed(server: CommandServer, body: bytes) -> None:
    refused(server.place("b1", body), 400)


@pytest.mark.parametrize("body", [[], [order_body()], "text", 7, None, True])
def test_B02_a_body_that_is_no_object_is_invalid(server: CommandServer, body: Any) -> None:
    refused(server.place("b2", json.dumps(body).encode()), 422, pointer="")


@pytest.mark.parametrize("cut", [1, 10, 60, -1])
def test_B03_truncated_json_is_malformed(server: CommandServer, cut: int) -> None:
    refused(server.place("b3", json.dumps(order_body()).encode()[:cut]), 400)


@pytest.mark.parametrize("bad", [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80"])
def test_B04_invalid_utf8_is_malformed(server: CommandServer, bad: bytes) -> None:
    body = json.dumps(order_body(customer_id="XX")).encode().replace(b"XX", bad)
    refused(server.place("b4", body), 400)


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"a":' * 100_000, b'{"lines":' + b"[" * 99_999])
def test_B05_deep_nesting_is_malformed_and_crashes_nothing(
    server: CommandServer, body: bytes
) -> None:
    refused(server.place("b5", body), 400)
    assert server.client.get("/livez").status_code == 200


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_B06_not_a_number_is_malformed(server: CommandServer, number: str) -> None:
    refused(server.place("b6", raw_lines("quantity", number)), 400)


@pytest.mark.parametrize("number", ["1e400", "-1e400"])
def test_B06_a_number_beyond_all_bounds_is_invalid(server: CommandServer, number: str) -> None:
    refused(server.place("b6", raw_lines("quantity", number)), 422, pointer="/lines/0/quantity")


@pytest.mark.parametrize("digits", [20, 40, 400, 5_000])
def test_B07_an_endless_integer_is_invalid(server: CommandServer, digits: int) -> None:
    body = raw_lines("unit_price", "7" * digits)
    refused(server.place("b7", body), 422, pointer="/lines/0/unit_price")


@pytest.mark.parametrize(
    "body",
    [
        json.dumps(order_body()).replace('"currency"', '"currency": "USD", "currency"'),
        json.dumps(order_body()).replace('"sku"', '"sku": "x", "sku"'),
        json.dumps(order_body()).replace('"currency"', '"c\\u0075rrency": "USD", "currency"'),
        json.dumps(order_body(lines=f"{MARKER}:")).replace('"lines"', '"lines": ":", "lines"'),
        '{"a":1,"a":1}',
    ],
)
def test_B08_a_doubled_key_is_malformed(server: CommandServer, body: str) -> None:
    refused(server.place("b8", body.encode()), 400)


def test_B09_an_unknown_field_is_invalid(server: CommandServer) -> None:
    refused(server.place("b9", order_body(is_admin=MARKER)), 422, pointer="/is_admin")
    refused(server.place("b9", lines(discount=MARKER)), 422, pointer="/lines/0/discount")
    refused(server.place("b9", order_body(order_id="b9")), 422, pointer="/order_id")
    refused(server.place("b9", order_body(**{f"{MARKER} ": 1})), 422, pointer="")


@pytest.mark.parametrize("quantity", ["7", 1.0, True, None, [1], {"a": 1}, MARKER])
def test_B10_a_value_of_another_type_is_invalid(server: CommandServer, quantity: Any) -> None:
    refused(server.place("b10", lines(quantity=quantity)), 422, pointer="/lines/0/quantity")


@pytest.mark.parametrize("quantity", [0, -1, 1_000_001, 2**31, 2**63, 2**64])
def test_B11_a_quantity_out_of_bounds_is_invalid(server: CommandServer, quantity: int) -> None:
    refused(server.place("b11", lines(quantity=quantity)), 422, pointer="/lines/0/quantity")
    answer = server.post("/inventory/b11/receive-stock", {"quantity": quantity})
    refused(answer, 422, pointer="/quantity")


@pytest.mark.parametrize("price", ["3.5", "1e-30", "1e2", "-1", "10.001", str(10**12 + 1)])
def test_B12_a_price_that_is_none_is_invalid(server: CommandServer, price: str) -> None:
    refused(server.place("b12", raw_lines("unit_price", price)), 422, pointer="/lines/0/unit_price")


@pytest.mark.parametrize("currency", ["XXX", "eur", "EURO", "", MARKER])
def test_B12_a_currency_that_is_none_is_invalid(server: CommandServer, currency: str) -> None:
    refused(server.place("b12", order_body(currency=currency)), 422, pointer="/currency")


def test_B13_a_total_that_no_reader_keeps_exact_is_invalid(server: CommandServer) -> None:
    body = lines(quantity=1_000_000, unit_price=10**12)
    refused(server.place("b13", body), 422, pointer="/lines")


def test_B13_lines_out_of_bounds_are_invalid(server: CommandServer) -> None:
    many = [{"sku": f"s{n}", "quantity": 1, "unit_price": 1} for n in range(101)]
    refused(server.place("b13", order_body(lines=many)), 422, pointer="/lines")
    refused(server.place("b13", order_body(lines=[])), 422, pointer="/lines")
    refused(server.place("b13", order_body(lines=many[:1] * 2)), 422, pointer="/lines")
    answer = server.post("/orders/b13/cancel-order", {"reason": MARKER * 100})
    refused(answer, 422, pointer="/reason")


def test_B14_a_nul_in_any_text_of_the_body_is_invalid(server: CommandServer) -> None:
    address = {**order_body()["ship_to"], "street": f"{MARKER}\0"}
    refused(server.place("b14", order_body(ship_to=address)), 422, pointer="/ship_to/street")
    refused(server.place("b14", lines(sku="\0")), 422, pointer="/lines/0/sku")
    refused(server.place("b14", order_body(**{f"{MARKER}\0": 1})), 422, pointer="")
    answer = server.post("/orders/b14/cancel-order", {"reason": f"a\0{MARKER}"})
    refused(answer, 422, pointer="/reason")


@pytest.mark.parametrize(
    "target",
    [
        f"/orders/{MARKER}%00/place-order",
        f"/orders/b14/place-order?x={MARKER}%00",
        f"/orders/b14%00/{MARKER}",
        f"/livez?{MARKER}%00",
        f"/orders/b14/place-order?x={MARKER}%ff",
        f"/orders/{MARKER}%zz/place-order",
        f"/orders/{MARKER}%c3/place-order",
    ],
)
def test_B14_a_nul_in_path_or_query_is_malformed(server: CommandServer, target: str) -> None:
    body = json.dumps(order_body()).encode()
    head = HEAD.replace(b"/orders/raw/place-order", target.encode())
    answer = server.raw(head + b"content-length: %d\r\n\r\n%b" % (len(body), body))
    raw_problem(answer, 400, "malformed")


@pytest.mark.parametrize(
    "line",
    [
        b"x-any: a\0b\r\n",
        b"x-any: a\rb\r\n",
        b"x any: b\r\n",
        b"content-length: 5\r\ncontent-length: 6\r\n",
        b"content-length: -1\r\n",
        b"transfer-encoding: chunked\r\ncontent-length: 6\r\n",
    ],
)
def test_B14_a_nul_or_another_fault_in_a_header_is_malformed(
    server: CommandServer, line: bytes
) -> None:
    answer = server.raw(HEAD + line + f"x-marker: {MARKER}\r\n\r\n".encode())
    raw_problem(answer, 400, "malformed")


def test_B14_a_raw_nul_in_the_path_is_malformed(server: CommandServer) -> None:
    head = HEAD.replace(b"/orders/raw", f"/orders/{MARKER}\0".encode())
    raw_problem(server.raw(head + b"\r\n"), 400, "malformed")


@pytest.mark.parametrize("escape", ["\\ud800", "\\udfff", "\\ude00\\ud83d", "a\\ud800b"])
def test_B15_a_lone_surrogate_is_invalid(server: CommandServer, escape: str) -> None:
    body = f'{{"reason":"{MARKER} {escape}"}}'.encode()
    refused(server.post("/orders/b15/cancel-order", body), 422, pointer="/reason")
    assert (
        server.post("/orders/b15/cancel-order", b'{"reason":"\\ud83d\\ude00"}').status_code == 409
    )


@pytest.mark.parametrize(
    "id", ["a\u202eb", "a\u200bb", "e\u0301", "\u00e9", "\uff41", "a b", "a\nb", "a%b", "a\u00adb"]
)
def test_B16_an_id_beyond_the_safe_alphabet_is_invalid(server: CommandServer, id: str) -> None:
    answer = server.client.post(
        httpx2.URL(server.url).copy_with(raw_path=f"/orders/{_escaped(id)}/place-order".encode()),
        json=order_body(),
    )
    refused(answer, 422, pointer="/order_id")
    refused(server.place("b16", order_body(customer_id=id)), 422, pointer="/customer_id")


def _escaped(id: str) -> str:
    return "".join(f"%{byte:02x}" for byte in id.encode())


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/json; charset=latin-1",
        MARKER,
    ],
)
def test_B18_another_content_type_is_unsupported(server: CommandServer, kind: str) -> None:
    answer = server.place("b18", order_body(), Content_Type=kind)
    refused(answer, 415, "unsupported-media-type")


def test_B18_a_body_without_content_type_is_unsupported(server: CommandServer) -> None:
    answer = server.client.post("/orders/b18/place-order", content=b"{}")
    refused(answer, 415, "unsupported-media-type")


def test_B18_a_content_encoding_is_unsupported(server: CommandServer) -> None:
    bomb = gzip.compress(b" " * 10_000_000)
    refused(server.place("b18", bomb, Content_Encoding="gzip"), 415, "unsupported-media-type")


def test_B18_json_in_utf8_is_what_is_read(lasting: CommandServer) -> None:
    kind = 'Application/JSON; Charset="UTF-8"'
    assert lasting.place("b18-good", order_body(), Content_Type=kind).status_code == 201


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/orders/%2e%2e/place-order", 422),
        ("/orders/../place-order", 422),
        ("/orders/./place-order", 422),
        ("/orders/../../etc/passwd", 404),
        ("/orders/..%2f..%2fetc/place-order", 422),
        ("/orders//place-order", 422),
        ("/orders/a%2fb/place-order", 422),
        ("/orders/" + "a" * 129 + "/place-order", 422),
        ("/orders/" + "a" * 10_240 + "/place-order", 422),
        ("/orders/$(id)/place-order", 422),
    ],
)
def test_B19_a_malformed_id_is_invalid(server: CommandServer, path: str, status: int) -> None:
    body = json.dumps(order_body()).encode()
    head = HEAD.replace(b"/orders/raw/place-order", path.encode())
    answer = server.raw(head + b"content-length: %d\r\n\r\n%b" % (len(body), body))
    found = raw_problem(answer, status, "invalid" if status == 422 else "unknown")
    assert "aaaa" not in str(found)


@pytest.mark.parametrize(
    "version", ["3", 'W/"3"', '"3", "4"', '""', '"-1"', '"01"', '"a"', '"3', "**", '"' + "9" * 17]
)
def test_B20_a_malformed_if_match_is_malformed(server: CommandServer, version: str) -> None:
    refused(server.place("b20", order_body(), If_Match=version), 400)


def test_B20_a_stale_if_match_names_the_actual_version(server: CommandServer) -> None:
    found = refused(server.place("b20", order_body(), If_Match='"4"'), 412, "stale-version")
    assert found["actual_version"] == 0


def test_B20_two_if_match_headers_are_malformed(server: CommandServer) -> None:
    answer = server.raw(HEAD + b'if-match: "1"\r\nif-match: "2"\r\ncontent-length: 2\r\n\r\n{}')
    raw_problem(answer, 400, "malformed")


def test_B20_if_match_may_be_required_by_setting() -> None:
    with command_server(if_match_required=True) as strict:
        refused(strict.place("b20", order_body()), 428, "precondition-required")
        assert strict.event_count() == 0
        assert strict.place("b20", order_body(), If_Match='"0"').status_code == 201


@pytest.mark.parametrize(
    "key",
    ["", '""', "k" * 129, "k" * 10_240, '"open', 'clo"sed"x"\u00e9', '"a"b"', "a\tb", '"\\x"'],
)
def test_B21_a_malformed_key_is_malformed(server: CommandServer, key: str) -> None:
    answer = server.raw(HEAD + b"idempotency-key: %b\r\ncontent-length: 2\r\n\r\n{}" % key.encode())
    raw_problem(answer, 400, "malformed")


@pytest.mark.parametrize(
    "key", ["k", "k" * 128, '"quoted key"', '"a\\"b"', "!#$%&'()*+,-./:;<=>?@"]
)
def test_B21_a_good_key_is_answered_as_it_came(lasting: CommandServer, key: str) -> None:
    answer = lasting.place(f"b21-{len(key)}-{ord(key[1:2] or 'k')}", Idempotency_Key=key)
    assert answer.status_code == 201
    assert answer.headers["idempotency-key"] == key


def test_B21_the_same_key_with_another_body_is_refused(lasting: CommandServer) -> None:
    assert lasting.place("b21", order_body(), Idempotency_Key="same").status_code == 201
    count = lasting.event_count()
    other = lasting.place("b21", order_body(customer_id="c-2"), Idempotency_Key="same")
    refused(other, 422, "idempotency-key-reused")
    cancel = lasting.post("/orders/b21/cancel-order", {"reason": MARKER}, Idempotency_Key="same")
    refused(cancel, 422, "idempotency-key-reused")
    assert lasting.event_count() == count


def test_B22_a_key_sent_many_times_at_once_has_one_event(lasting: CommandServer) -> None:
    count = lasting.event_count()

    async def flood() -> list[dict[str, Any]]:
        limits = httpx2.Limits(max_connections=50)
        async with httpx2.AsyncClient(base_url=lasting.url, limits=limits, timeout=30) as client:
            answers = await asyncio.gather(
                *(
                    client.post(
                        "/orders/b22/place-order",
                        json=order_body(),
                        headers={"Idempotency-Key": "flood"},
                    )
                    for _ in range(1_000)
                )
            )
        assert {answer.status_code for answer in answers} == {201}
        return [answer.json() for answer in answers]

    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(asyncio.run, flood()).result()
    assert lasting.event_count() == count + 1
    assert sum(not body.pop("replayed") for body in found) >= 1
    assert all(body == found[0] for body in found)


def test_B23_a_command_for_an_unknown_aggregate_names_the_rule(server: CommandServer) -> None:
    for command in ("cancel-order", "confirm-order"):
        body = {"reason": MARKER} if command == "cancel-order" else {}
        answer = server.post(f"/orders/b23/{command}", body)
        refused(answer, 409, "order-never-placed")
