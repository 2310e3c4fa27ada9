"""Asks OSV whether a locked dependency has a known vulnerability: `python -m tests.audit`.

One request with every name and version of requirements.lock; nothing else leaves the machine. Exit
code 1 means that something was found. Without an answer it says so, and does not fail: a check must
work on a train.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

LOCK: Final = Path(__file__).parent.parent / "requirements.lock"
SERVICE: Final = "https://api.osv.dev/v1/querybatch"
PAGE: Final = "https://osv.dev/vulnerability/"
TIMEOUT_S: Final = 15.0
QUERIES_MAX: Final = 1_000
"""What the service takes in one request."""

ACCEPTED: Final[Mapping[str, str]] = {}
"""Vulnerabilities that do not concern us, by id, and why."""


class Package(NamedTuple):
    """One locked dependency."""

    name: str
    version: str


class Unanswered(Exception):
    """The service could not be asked, or its answer is none."""


def main(arguments: Sequence[str] | None = None) -> int:
    """0 without a finding or without an answer, 1 with a finding."""
    parser = argparse.ArgumentParser(prog="audit")
    parser.add_argument("--lock", type=Path, default=LOCK)
    parser.add_argument("--service", default=SERVICE)
    given = parser.parse_args(arguments)
    packages = locked(given.lock.read_text(encoding="utf-8"))
    try:
        found = ask(given.service, packages)
    except Unanswered as error:
        print(f"audit: NOT ASKED whether {len(packages)} dependencies are vulnerable: {error}")
        return 0
    open_ = {package: [i for i in ids if i not in ACCEPTED] for package, ids in found.items()}
    open_ = {package: ids for package, ids in open_.items() if ids}
    for package, ids in open_.items():
        pages = ", ".join(f"{PAGE}{each}" for each in ids)
        print(f"audit: {package.name} {package.version} is vulnerable: {pages}", file=sys.stderr)
    if not open_:
        print(f"audit: no known vulnerability in {len(packages)} dependencies")
    return 1 if open_ else 0


def locked(lock: str) -> list[Package]:
    """Every pinned dependency of a lock file."""
    pins = re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)", lock, re.MULTILINE)
    packages = [Package(name, version) for name, version in pins]
    assert 0 < len(packages) <= QUERIES_MAX, f"{len(packages)} dependencies"
    return packages


def ask(service: str, packages: Sequence[Package]) -> dict[Package, list[str]]:
    """The ids of the known vulnerabilities of each package; Unanswered where nobody says."""
    queries = [
        {"package": {"name": each.name, "ecosystem": "PyPI"}, "version": each.version}
        for each in packages
    ]
    request = urllib.request.Request(  # noqa: S310 - the address is a constant or an argument
        service,
        data=json.dumps({"queries": queries}).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
            results: list[dict[str, Any]] = json.load(answer)["results"]
        if len(results) != len(packages):
            raise Unanswered(f"{service} answered {len(results)} of {len(packages)} questions")
        return {
            package: [str(each["id"]) for each in result.get("vulns", ())]
            for package, result in zip(packages, results, strict=True)
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unanswered(f"{service} does not answer ({error})") from error


if __name__ == "__main__":
    sys.exit(main())
