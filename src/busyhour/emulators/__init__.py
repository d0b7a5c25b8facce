"""Twins of the AI vendors: their wire formats, with latency and failure as settings, each in a process of its own."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from busyhour.emulators.behaviour import Constant, Empirical, Latency, LogNormal

if TYPE_CHECKING:
    from busyhour.emulators.anthropic import Anthropic
    from busyhour.emulators.cartesia import Cartesia
    from busyhour.emulators.deepgram import Deepgram
    from busyhour.emulators.elevenlabs import ElevenLabs
    from busyhour.emulators.gemini import Gemini
    from busyhour.emulators.openai import OpenAI
    from busyhour.emulators.pinecone import Pinecone
    from busyhour.emulators.profile import learned

__all__ = [
    "Anthropic",
    "Cartesia",
    "Constant",
    "Deepgram",
    "ElevenLabs",
    "Empirical",
    "Gemini",
    "Latency",
    "LogNormal",
    "OpenAI",
    "Pinecone",
    "learned",
]

_MODULES = {
    "Anthropic": "anthropic",
    "Cartesia": "cartesia",
    "Deepgram": "deepgram",
    "ElevenLabs": "elevenlabs",
    "Gemini": "gemini",
    "OpenAI": "openai",
    "Pinecone": "pinecone",
    "learned": "profile",
}


def __getattr__(name: str) -> object:
    # These modules are loaded when asked for (PEP 562): `python -m busyhour.emulators.openai` would otherwise
    # find itself loaded before it begins, which Python warns of, and every twin would load the parts of all others.
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
