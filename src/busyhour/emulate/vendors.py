"""The vendors there are twins of, and how each vendor's own SDK is pointed at an address."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, fields
from typing import Any, Protocol

from busyhour import emulators
from busyhour.emulators.behaviour import Behaviour
from busyhour.errors import PlanError
from busyhour.model import Endpoint


class Emulator(Protocol):
    """What the classes of all twins have in common."""

    @property
    def name(self) -> str: ...

    @property
    def _behaviour(self) -> Behaviour: ...

    def running(self, peers: Mapping[str, Endpoint]) -> AbstractAsyncContextManager[Endpoint]: ...

    def obituary(self) -> str | None: ...


@dataclass(frozen=True, kw_only=True)
class Vendor:
    """`twin`: the class in busyhour.emulators. `api`: what follows the port in the URL that the SDK wants. `pointing`:
    lines of a shell or of Python that point the SDK there; {url}, {origin}, {host} and {ws} are filled in."""

    name: str
    twin: str
    pointing: Sequence[str]
    api: str = ""

    def make(self, **settings: object) -> Emulator:
        """The twin. Raises PlanError for impossible settings."""
        made: Emulator = self._class()(**settings)
        return made

    def settings(self) -> Mapping[str, Any]:
        """The names and types (as written) of all the twin's settings."""
        return {item.name: item.type for item in fields(self._class()) if item.init}

    def pointed_at(self, origin: str) -> list[str]:
        """How the SDK is pointed at http://HOST:PORT."""
        host = origin.removeprefix("http://")
        words = {"origin": origin, "url": origin + self.api, "host": host, "ws": f"ws://{host}"}
        return [line.format(**words) for line in self.pointing]

    def _class(self) -> type[Any]:
        found: type[Any] = getattr(emulators, self.twin)
        return found


_VENDORS = (
    Vendor(name="openai", twin="OpenAI", api="/v1", pointing=["export OPENAI_BASE_URL={url}"]),
    Vendor(name="anthropic", twin="Anthropic", pointing=["export ANTHROPIC_BASE_URL={url}"]),
    Vendor(name="gemini", twin="Gemini", pointing=["export GOOGLE_GEMINI_BASE_URL={url}"]),
    Vendor(
        name="deepgram",
        twin="Deepgram",
        pointing=[
            'here = DeepgramClientEnvironment(base="{url}", production="{ws}", agent="{ws}", agent_rest="{url}")',
            'AsyncDeepgramClient(api_key="any", environment=here)   # or dial {ws}/v1/listen',
        ],
    ),
    Vendor(
        name="cartesia",
        twin="Cartesia",
        pointing=[
            "export CARTESIA_BASE_URL={url}",
            'AsyncCartesia(api_key="any", websocket_base_url="{ws}")   # the WebSocket: {ws}/tts/websocket',
        ],
    ),
    Vendor(
        name="elevenlabs",
        twin="ElevenLabs",
        pointing=['AsyncElevenLabs(api_key="any", base_url="{url}")   # the WebSockets: {ws}/v1/text-to-speech/...'],
    ),
    Vendor(name="pinecone", twin="Pinecone", pointing=['Pinecone(api_key="any").Index(host="{url}")']),
)
VENDORS: Mapping[str, Vendor] = {vendor.name: vendor for vendor in _VENDORS}


def vendor(name: str) -> Vendor:
    """Raises PlanError, naming those that are known."""
    if name not in VENDORS:
        raise PlanError(f"there is no twin of {name!r:.80}; known are {', '.join(VENDORS)}")
    return VENDORS[name]
