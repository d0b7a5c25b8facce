"""Whom a carrier may connect to, and the names it draws."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from random import Random
from urllib.parse import urljoin, urlsplit
from uuid import UUID

from busyhour.share import Share


def reachable(url: str, target_url: str) -> bool:
    """Whether we may connect to `url`: on this machine, or where the target is; a test calls nobody else."""
    if not is_url(url):
        return False
    host = urlsplit(url).hostname or ""
    if host in ("localhost", urlsplit(target_url).hostname):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_url(url: str) -> bool:
    """Whether it is absolute, with a host, and a port if any that there can be."""
    try:
        parts = urlsplit(url)
        return bool(parts.scheme and parts.hostname and (parts.port is None or parts.port > 0))
    except ValueError:
        return False


def joined(base_url: str, url: str) -> str:
    """The URL, if need be relative to the other; what is none is given back as it is."""
    try:
        return urljoin(base_url, url)
    except ValueError:
        return url


def next_call(carrier: str, dialled: int, share: Share, name: Callable[[Random], str]) -> tuple[int, Random]:
    """The carrier's next call, after so many, whose id falls to the share: its number, and its random numbers, of which
    `name` draws that id first."""
    while True:
        dialled += 1
        seed = f"{carrier}/{dialled}"
        if share.of == 1 or share.holds(name(Random(seed))):
            return dialled, Random(seed)


def drawn_uuid(random: Random) -> str:
    return str(UUID(int=random.getrandbits(128), version=4))
