"""Where a process is: whose clock it reads, and whose loopback it is on."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

_BOOT = "/proc/sys/kernel/random/boot_id"


def place() -> Mapping[str, str]:
    """host: its name. clock, network: the same for two processes exactly if they share the monotonic clock, or the
    loopback (a machine since it was booted, and its namespaces: two containers of one machine share only the clock)."""
    boot = _read(_BOOT)
    return {
        "host": socket.gethostname(),
        "clock": f"{boot} {_namespace('time')}",
        "network": f"{boot} {_namespace('net')}",
    }


def is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except OSError:  # no Linux: every host for itself
        return socket.gethostname()


def _namespace(kind: str) -> str:
    try:
        return os.readlink(f"/proc/self/ns/{kind}")
    except OSError:
        return ""
