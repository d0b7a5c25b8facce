"""Run a command that sees a small disk: `python small_disk.py FOLDER BYTES COMMAND...`; 77 where that is not allowed.

A file system in memory, mounted over the folder in a mount namespace of our own: nobody else sees it, and it is gone
with us. Who is not root is root of a user namespace of their own, which some systems forbid.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

NOT_ALLOWED = 77
_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000


def main(folder: str, size: str, *command: str) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if libc.unshare(_CLONE_NEWNS | (0 if user == 0 else _CLONE_NEWUSER)) != 0:
        return NOT_ALLOWED
    if user != 0:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    if libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None) != 0:
        return NOT_ALLOWED
    if libc.mount(b"small", os.fsencode(folder), b"tmpfs", 0, f"size={size}".encode()) != 0:
        return NOT_ALLOWED
    return os.execv(command[0], command)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
