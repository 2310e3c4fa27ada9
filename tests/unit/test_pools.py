"""Every pool of connections gives up early and begins anew: a database that is back is found."""

from __future__ import annotations

import ast
from pathlib import Path

from tidelog.postgres.patience import RECONNECT_TIMEOUT_S

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ("tidelog", "query_service", "projectors", "sagas", "command_service", "gateway")


def test_no_pool_waits_longer_and_longer_for_its_database() -> None:
    pools = [
        call
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("ConnectionPool")
    ]
    assert len(pools) >= 3
    for pool in pools:
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in pool.keywords}
        assert given["reconnect_timeout"] == "RECONNECT_TIMEOUT_S", ast.unparse(pool)
    assert RECONNECT_TIMEOUT_S < 10
