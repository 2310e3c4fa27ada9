"""Python from the .proto files: `python -m tests.protobuf` writes it, a test compares.

The compiler is a tool of the workshop only; what it makes is committed beside the code.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCES = ROOT / "schemas" / "proto"


def sources() -> list[str]:
    """The .proto files; each is compiled to the place that its own path names."""
    return sorted(str(path.relative_to(SOURCES)) for path in SOURCES.rglob("*.proto"))


def generated() -> dict[Path, str]:
    """The files as the compiler makes them now, by their places in the repository."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        out = [f"--python_out={folder}", f"--pyi_out={folder}"]
        subprocess.run(
            [sys.executable, "-m", "grpc_tools.protoc", "-I", str(SOURCES), *out, *sources()],
            check=True,
        )
        return {
            path.relative_to(folder): _typed(path.read_text())
            for path in sorted(folder.rglob("*_pb2.py*"))
        }


def _typed(text: str) -> str:
    """The compiler leaves the arguments of Mapping out, which strict types want."""
    return re.sub(r"\b_Mapping(?=[\]| ])(?!\n)", "_Mapping[str, object]", text)


def main() -> None:
    """Write them."""
    for path, text in generated().items():
        (ROOT / path).write_text(text)


if __name__ == "__main__":
    main()
