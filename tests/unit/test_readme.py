"""What the README shows as Python runs as it stands."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

README = Path(__file__).parent.parent.parent / "README.md"


def test_what_the_readme_defines_works_and_passes_its_own_tests(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) == 3
    page = tmp_path / "page.py"
    page.write_text("\n".join(blocks))
    runpy.run_path(str(page))
