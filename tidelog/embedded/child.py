"""Become another program that ends with its parent: `child.py SIGNAL PARENT_PID USER COMMAND…`.

Run as a script by `tidelog.embedded.process` between fork and exec, where no thread of the parent
can interfere; so it imports the standard library only. USER is `same`, `nobody`, or `nobody+paths`
(nobody who may still pass folders that are closed to others). Linux only.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import sys

PR_SET_PDEATHSIG = 1
PR_SET_KEEPCAPS = 8
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
CAP_DAC_OVERRIDE = 1
CAPABILITY_VERSION_3 = 0x20080522
PARENT_IS_GONE = 125

_libc = ctypes.CDLL(None, use_errno=True)


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def main(arguments: list[str]) -> None:
    """Change the user, tie this process to its parent, and become the command."""
    death_signal, parent_pid, user, *command = arguments
    if user != "same":
        _become_nobody(keep_paths=user == "nobody+paths")
    # After the change of user, which clears it; before the check, or the parent's end is missed.
    _checked(_libc.prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0), "prctl")
    if os.getppid() != int(parent_pid):
        sys.exit(PARENT_IS_GONE)
    os.execvp(command[0], command)


def _become_nobody(keep_paths: bool) -> None:
    entry = pwd.getpwnam("nobody")
    if keep_paths:
        _checked(_libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0), "prctl")
    os.setgroups([])
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)
    if keep_paths:
        _keep_only(CAP_DAC_OVERRIDE)


def _keep_only(capability: int) -> None:
    """Keep one capability, over exec as well."""
    bit = 1 << capability
    header = _Header(CAPABILITY_VERSION_3, 0)
    data = (_Data * 2)(_Data(bit, bit, bit), _Data(0, 0, 0))
    _checked(_libc.capset(ctypes.byref(header), data), "capset")
    raised = _libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0)
    _checked(raised, "prctl")


def _checked(result: int, call: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{call}: {os.strerror(code)}")


if __name__ == "__main__":
    main(sys.argv[1:])
