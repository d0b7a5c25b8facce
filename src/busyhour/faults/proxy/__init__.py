"""The byte path: a TCP proxy with Toxiproxy's toxics and API, and toxics that read HTTP, events and WebSockets."""

from busyhour.faults.proxy.harms import (
    Bandwidth,
    Blackhole,
    Corrupt,
    Down,
    HttpStatus,
    Latency,
    LimitData,
    MalformedEvent,
    MalformedMessage,
    ResetPeer,
    Slicer,
    SlowClose,
    StallAfter,
    Toxified,
    TruncateAfter,
)
from busyhour.faults.proxy.service import Proxy

__all__ = [
    "Bandwidth",
    "Blackhole",
    "Corrupt",
    "Down",
    "HttpStatus",
    "Latency",
    "LimitData",
    "MalformedEvent",
    "MalformedMessage",
    "Proxy",
    "ResetPeer",
    "Slicer",
    "SlowClose",
    "StallAfter",
    "Toxified",
    "TruncateAfter",
]
