"""`tidelog doctor`: whether this machine can run the stack."""

from __future__ import annotations

import typer

from tidelog.cli.output import DATA_DEFAULT, FAILURE, Data, Json, show_json
from tidelog.embedded.doctor import examine


def doctor(data: Data = DATA_DEFAULT, as_json: Json = False) -> None:
    """Check what the stack needs; every failing line names its cure."""
    checks = examine(data)
    fine = all(check.fine for check in checks)
    if as_json:
        show_json({"fine": fine, "checks": [vars(check) for check in checks]})
    else:
        for check in checks:
            print(f"{'ok  ' if check.fine else 'FAIL'} {check.name:<11} {check.detail}")
            if not check.fine:
                print(f"     {'cure:':<11} {check.cure}")
    if not fine:
        raise typer.Exit(FAILURE)
