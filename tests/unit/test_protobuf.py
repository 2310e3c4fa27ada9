"""The code that is generated from the .proto files is the one that is committed."""

from __future__ import annotations

from tests.protobuf import ROOT, generated


def test_the_committed_code_is_what_the_compiler_makes() -> None:
    made = generated()
    assert len(made) >= 4
    for path, text in made.items():
        assert (ROOT / path).read_text() == text, f"{path}: run ./dev proto"


def test_no_generated_file_is_left_without_its_source() -> None:
    made = {ROOT / path for path in generated()}
    found = {path for path in ROOT.glob("tidelog/**/*_pb2.py*") if "__pycache__" not in path.parts}
    assert found <= made
