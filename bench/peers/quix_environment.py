"""The environment of the Quix Streams peer, made once under `.tidelog/` and kept."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bench.stack import FOLDER

REQUIREMENTS = Path(__file__).with_name("quix-requirements.txt")
INSTALL_TIMEOUT_S = 600.0


def quix_python() -> str | None:
    """Its interpreter; None where it cannot be made, which is said."""
    folder = FOLDER / ".tidelog" / "bench-quix"
    python, mark = folder / "bin" / "python", folder / "installed.txt"
    wanted = REQUIREMENTS.read_text()
    if mark.exists() and mark.read_text() == wanted:
        return str(python)
    try:
        _run(sys.executable, "-m", "venv", "--clear", str(folder))
        _run(str(python), "-m", "pip", "install", "--quiet", "-r", str(REQUIREMENTS))
    except (subprocess.SubprocessError, OSError) as error:
        print(f"bench: no Quix Streams here, it is left out: {error}", file=sys.stderr)
        return None
    mark.write_text(wanted)
    return str(python)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=INSTALL_TIMEOUT_S, stdout=sys.stderr)
