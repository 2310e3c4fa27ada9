"""Apache Kafka's jars: fetched once from Maven Central by jgo, checked at every start.

`kafka_jars.lock` beside this file pins each jar by SHA-256 and size, so a start needs no
resolution, a second start no network, and a partial or corrupt file is found and fetched again.
`python -m tidelog.embedded.jars` writes the lock anew (jgo's Python resolver: no Java, no Maven).
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from tidelog.errors import ConfigurationError, Unavailable

KAFKA_VERSION = "4.3.1"
# Kafka itself, and a logger: its own dependencies bring none, and without one it fails silently.
ROOTS = (f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}", "org.slf4j:slf4j-simple:1.7.36")
LOCK = Path(__file__).with_name("kafka_jars.lock")
DOWNLOADS_MAX = 4
ATTEMPTS_MAX = 4
REQUEST_TIMEOUT_S = 30


@dataclass(frozen=True)
class Jar:
    """One jar of the lock."""

    coordinate: str
    size: int
    sha256: str

    def path(self, cache_dir: Path) -> Path:
        """Where the jar lies, in the layout of a Maven repository."""
        group, artifact, version = self.coordinate.split(":")
        folder = cache_dir.joinpath("maven", *group.split("."), artifact, version)
        return folder / f"{artifact}-{version}.jar"

    def is_whole(self, cache_dir: Path) -> bool:
        """Whether the file is there, whole, and the one that was pinned."""
        path = self.path(cache_dir)
        if not path.exists() or path.stat().st_size != self.size:
            return False
        return _sha256(path) == self.sha256


def default_cache_dir() -> Path:
    """The folder of this user where downloads are kept."""
    path: Path = _package("platformdirs").user_cache_path("tidelog")
    return path


def locked_jars(lock: Path = LOCK) -> tuple[Jar, ...]:
    """The jars that the lock names, in the order of the class path."""
    jars = []
    for line in lock.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            coordinate, size, sha256 = line.split()
            jars.append(Jar(coordinate, int(size), sha256))
    return tuple(jars)


def missing_jars(cache_dir: Path | None = None) -> tuple[Jar, ...]:
    """The jars that are absent, partial or corrupt."""
    folder = cache_dir or default_cache_dir()
    return tuple(jar for jar in locked_jars() if not jar.is_whole(folder))


def class_path(cache_dir: Path | None = None) -> tuple[Path, ...]:
    """The paths of all jars; those that are absent, partial or corrupt are fetched first."""
    folder = cache_dir or default_cache_dir()
    if missing_jars(folder):
        with _locked(folder):
            _fetch_all(missing_jars(folder), folder)
    return tuple(jar.path(folder) for jar in locked_jars())


def _fetch_all(jars: Sequence[Jar], cache_dir: Path) -> None:
    """Fetch the jars, a few at a time, and show how far it is."""
    if not jars:
        return
    with _progress(jars) as advance, ThreadPoolExecutor(DOWNLOADS_MAX) as pool:
        for _ in pool.map(lambda jar: _fetch(jar, cache_dir, advance), jars):
            pass


def _fetch(jar: Jar, cache_dir: Path, advance: Callable[[Jar], None]) -> None:
    problem: Exception | None = None
    for attempt in range(ATTEMPTS_MAX):
        time.sleep(0.5 * attempt)
        jar.path(cache_dir).unlink(missing_ok=True)
        try:
            _download(jar.coordinate, cache_dir)
        except (OSError, RuntimeError) as error:  # requests' own errors are OSErrors
            problem = error
            continue
        if jar.is_whole(cache_dir):
            advance(jar)
            return
        problem = ValueError("the file is not the one that kafka_jars.lock pins")
    jar.path(cache_dir).unlink(missing_ok=True)
    raise Unavailable(
        f"{jar.coordinate} could not be fetched from Maven Central: {problem}. Check the network "
        "(a mirror goes into jgo's configuration, section [repositories]) and start again."
    )


def _download(coordinate: str, cache_dir: Path) -> Path:
    path: Path = _maven(cache_dir).create_dependency(coordinate).artifact.resolve()
    return path


def _maven(cache_dir: Path) -> Any:
    """Maven Central as jgo sees it, with the mirrors in the user's jgo configuration."""
    maven = _package("jgo.maven")
    configured = _package("jgo.config").GlobalSettings.load().repositories
    central = {"central": _package("jgo.constants").MAVEN_CENTRAL_URL}
    return maven.MavenContext(
        resolver=maven.PythonResolver(),
        repo_cache=cache_dir / "maven",
        remote_repos={**central, **configured},
        timeout=REQUEST_TIMEOUT_S,
    )


def _package(name: str) -> Any:
    """An optional package, imported when it is needed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"the package {error.name} is not installed; run: pip install 'tidelog[embedded]'"
        ) from error


@contextmanager
def _locked(cache_dir: Path) -> Iterator[None]:
    """One process fetches; the others wait for it."""
    cache_dir.mkdir(parents=True, exist_ok=True)
    with (cache_dir / "download.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _progress(jars: Sequence[Jar]) -> Iterator[Callable[[Jar], None]]:
    """A bar on a terminal, a line for every ten jars elsewhere."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(
        *columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(f"Apache Kafka {KAFKA_VERSION}", total=sum(jar.size for jar in jars))
        done: list[Jar] = []

        def advance(jar: Jar) -> None:
            done.append(jar)
            bar.advance(task, jar.size)
            if not console.is_terminal and (len(done) % 10 == 0 or len(done) == len(jars)):
                print(f"Apache Kafka: {len(done)} of {len(jars)} jars", file=sys.stderr)

        if not console.is_terminal:
            print(f"Fetching Apache Kafka {KAFKA_VERSION}: {len(jars)} jars", file=sys.stderr)
        yield advance


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_lock(lock: Path = LOCK) -> None:
    """Resolve Kafka's dependencies afresh, fetch them, and pin what came."""
    with tempfile.TemporaryDirectory() as folder:
        maven = _maven(Path(folder))
        roots = [maven.create_dependency(root) for root in ROOTS]
        inputs, transitive = maven.resolver.resolve(roots)
        needed = [
            *inputs,
            *(found for found in transitive if found.scope in ("compile", "runtime")),
        ]
        lines = [_lock_line(dependency.artifact) for dependency in needed]
    header = f"# Apache Kafka {KAFKA_VERSION}; written by: python -m tidelog.embedded.jars\n"
    lock.write_text(header + "\n".join(sorted(lines)) + "\n", encoding="utf-8")


def _lock_line(artifact: Any) -> str:
    path: Path = artifact.resolve()
    coordinate = f"{artifact.groupId}:{artifact.artifactId}:{artifact.version}"
    return f"{coordinate} {path.stat().st_size} {_sha256(path)}"


if __name__ == "__main__":
    write_lock()
