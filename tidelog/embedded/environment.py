"""The virtual environment of a checkout: `python environment.py ROOT` makes or mends ROOT/.venv.

Run by `./dev` before every command with the user's own Python, so it imports the standard library
only. It installs what requirements.lock pins (with hashes) and makes the checkout importable; when
nothing has changed it returns at once. Two that run together wait for one another.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
import venv
from pathlib import Path

VERSION_MIN = (3, 11)
LOCK_NAME = "install.lock"
_PURELIB = "import sysconfig; print(sysconfig.get_path('purelib'))"


def main(root: Path) -> None:
    """Make ROOT/.venv what requirements.lock says."""
    stamp = root / ".venv" / "tidelog.stamp"
    wanted = _wanted(root)
    if _is(stamp, wanted):
        return
    (root / ".venv").mkdir(exist_ok=True)
    with (root / ".venv" / LOCK_NAME).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _is(stamp, wanted):  # the other one has done it
            return
        stamp.unlink(missing_ok=True)
        _install(root)
        stamp.write_text(wanted, encoding="utf-8")


def _wanted(root: Path) -> str:
    """What the stamp says when all is as it should be; another place needs another stamp."""
    lock = hashlib.sha256((root / "requirements.lock").read_bytes()).hexdigest()
    return f"{lock} {root}\n"


def _is(stamp: Path, wanted: str) -> bool:
    return stamp.exists() and stamp.read_text(encoding="utf-8") == wanted


def _install(root: Path) -> None:
    python = root / ".venv" / "bin" / "python"
    if not _works(python):
        _say(f"making {root / '.venv'} with Python {sys.version.split()[0]}")
        _make(root / ".venv")
    _say("installing the packages that requirements.lock pins (a minute or two the first time)")
    quiet = [] if sys.stderr.isatty() else ["--quiet"]
    pip = [str(python), "-m", "pip", "install", "--no-input", "--disable-pip-version-check", *quiet]
    done = subprocess.run(
        [*pip, "--require-hashes", "-r", str(root / "requirements.lock")],
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        check=False,
    )
    if done.returncode != 0:
        _fail("pip could not install the packages; check the network, then start again")
    purelib = subprocess.run(
        [str(python), "-c", _PURELIB], capture_output=True, text=True, check=True
    )
    Path(purelib.stdout.strip(), "tidelog-checkout.pth").write_text(f"{root}\n", encoding="utf-8")


def _works(python: Path) -> bool:
    """Whether the environment has a Python that is new enough, and pip."""
    if not python.exists():
        return False
    test = f"import sys, pip; sys.exit(sys.version_info < {VERSION_MIN})"
    done = subprocess.run([str(python), "-c", test], capture_output=True, check=False)
    return done.returncode == 0


def _make(folder: Path) -> None:
    for entry in folder.iterdir():  # what an interrupted attempt or a removed Python has left
        if entry.name == LOCK_NAME:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    try:
        venv.EnvBuilder(with_pip=True, symlinks=True).create(folder)
    except (OSError, subprocess.CalledProcessError) as error:
        _fail(
            f"Python could not make a virtual environment ({error}); on Debian and Ubuntu run: "
            f"apt install python3-venv, then remove {folder} and start again"
        )


def _say(text: str) -> None:
    print(f"dev: {text}", file=sys.stderr, flush=True)


def _fail(text: str) -> None:
    _say(text)
    sys.exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
