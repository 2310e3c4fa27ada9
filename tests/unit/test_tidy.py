"""The shape of the code: who may import whom, how long things may be, what is dead."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import tidelog

ROOT = Path(__file__).parent.parent.parent
SERVICES = ("command_service", "projectors", "query_service", "sagas", "gateway")
PACKAGES = ("tidelog", "schemas", *SERVICES, "bench", "tests")

FILE_LINES_MAX = 500
CLASS_LINES_MAX = 250
FUNCTION_LINES_MAX = 70

# What the pure loops may not touch: adapters, the clock, chance, and anything that does I/O.
IMPURE = {
    "asyncio", "confluent_kafka", "fastapi", "fastavro", "httpx2", "io", "os", "pathlib",
    "psycopg", "random", "rocksdict", "secrets", "socket", "sqlalchemy", "structlog",
    "subprocess", "threading", "time", "uuid", "uvicorn",
}  # fmt: skip
ADAPTERS = {
    f"tidelog.{name}"
    for name in (
        "cli", "embedded", "grpc", "http", "ids", "kafka", "logging", "memory", "postgres",
        "projector", "registry", "rocksdb", "settings",
    )
}  # fmt: skip


def modules() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> Iterator[str]:
    """Every module that a file imports; `from a import b` counts as a and as a.b."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = name_of(path).split(".")[: -node.level] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def under(name: str, roots: set[str]) -> bool:
    return any(name == root or name.startswith(f"{root}.") for root in roots)


def test_the_schemas_import_nothing_of_ours_but_messages() -> None:
    for path in (ROOT / "schemas").rglob("*.py"):
        ours = [name for name in imports_of(path) if under(name, {"tidelog", *SERVICES})]
        assert all(under(name, {"tidelog.message"}) for name in ours), (path, ours)


def test_the_services_never_import_one_another() -> None:
    for service in SERVICES:
        others = {other for other in SERVICES if other != service} | {"tests", "bench"}
        for path in (ROOT / service).rglob("*.py"):
            wrong = [name for name in imports_of(path) if under(name, others)]
            assert not wrong, (path, wrong)


def test_the_library_imports_no_service_and_no_schema() -> None:
    for path in (ROOT / "tidelog").rglob("*.py"):
        if path.is_relative_to(ROOT / "tidelog" / "cli"):
            continue  # the command line of the repository shows the shop's own messages
        wrong = [
            name
            for name in imports_of(path)
            if under(name, {*SERVICES, "schemas", "tests", "bench"})
        ]
        assert not wrong, (path, wrong)


def test_the_engine_is_pure() -> None:
    for path in (ROOT / "tidelog" / "engine").rglob("*.py"):
        wrong = [name for name in imports_of(path) if under(name, IMPURE | ADAPTERS)]
        assert not wrong, (path, wrong)


def test_definitions_import_no_adapter() -> None:
    for name in ("message", "aggregate", "projection", "errors", "position", "wire", "canonical"):
        path = ROOT / "tidelog" / f"{name}.py"
        wrong = [found for found in imports_of(path) if under(found, ADAPTERS | {"tidelog.engine"})]
        assert not wrong, (path, wrong)


def test_files_classes_and_functions_stay_short() -> None:
    long = []
    for path in modules():
        text = path.read_text()
        if text.count("\n") > FILE_LINES_MAX:
            long.append(f"{path}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                limit = FUNCTION_LINES_MAX
            elif isinstance(node, ast.ClassDef) and "tests" not in path.parts:
                limit = CLASS_LINES_MAX
            else:
                continue
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > limit:
                long.append(f"{path}:{node.lineno} {node.name}: {lines} lines")
    assert not long, "\n".join(long)


def test_no_module_is_dead() -> None:
    imported = {name for path in modules() for name in imports_of(path)}
    texts = [path.read_text() for path in modules()]
    entries = {"__init__", "__main__", "conftest"}
    dead = [
        name_of(path)
        for path in modules()
        if path.stem not in entries
        and not path.stem.startswith("test_")
        and name_of(path) not in imported
        and '__name__ == "__main__"' not in path.read_text()
        and not any(f'"{name_of(path)}' in text for text in texts)  # run by its name
    ]
    assert not dead, dead


def test_no_error_is_swallowed() -> None:
    swallowed = []
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ExceptHandler) or "tests" in path.parts:
                continue
            if len(node.body) == 1 and isinstance(node.body[0], ast.Pass):
                swallowed.append(f"{path}:{node.lineno}")
    assert not swallowed, swallowed


@pytest.mark.parametrize("name", tidelog.__all__)
def test_what_is_public_exists_and_is_documented(name: str) -> None:
    public = getattr(tidelog, name)
    assert getattr(public, "__doc__", None), name


def test_the_version_is_said_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert tidelog.__version__ == project["version"]
