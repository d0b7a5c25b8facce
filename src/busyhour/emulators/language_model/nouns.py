"""The nouns of a language model's twin: what is asked, what is answered, and what an API brings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from aiohttp import web

from busyhour.emulators.behaviour import COMMON_OUTCOMES
from busyhour.emulators.language_model.hearing import Ear
from busyhour.emulators.language_model.upstream import Upstream
from busyhour.emulators.receptionist import Said, Tool
from busyhour.emulators.twin import text_setting
from busyhour.errors import PlanError
from busyhour.model import JSON

OUTCOMES = (*COMMON_OUTCOMES, "no_token", "stall", "truncate", "malformed", "quota")
EVENT_STREAM = "text/event-stream; charset=utf-8"
Finish = Literal["stop", "stop_sequence", "length", "tool", "blocked"]


class Refused(Exception):
    """A request is answered with an error; an API's `error` gives it the vendor's shape.

    kind: the vendor's name for it ("invalid_request_error", "RESOURCE_EXHAUSTED"); param, code: where the vendor tells
    them; headers: beside the usual ones (Retry-After).
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = "invalid_request_error",
        param: str = "",
        code: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.kind = kind
        self.param = param
        self.code = code
        self.headers = dict(headers or {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A well-formed request, whatever API it came by.

    conversation: oldest first; instructions are Said(role="system"), results Said(role="tool", tool=<function>).
    force_tool: None when no function must be called, "" when any must, else its name. parallel: several may be called
    at once. schema: the JSON schema the answer must validate against; {} for any JSON object; None for plain text.
    shape: makes the Shape of the finished reply; it knows what the request wanted told (usage, SSE or array).
    """

    model: str
    conversation: Sequence[Said]
    shape: Callable[[Finished], Shape]
    stream: bool = False
    tools: Sequence[Tool] = ()
    force_tool: str | None = None
    parallel: bool = True
    tokens_at_most: int | None = None
    stops: Sequence[str] = ()
    schema: Mapping[str, JSON] | None = None
    prompt_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One thing of a reply: a text, or the call of function `tool` whose arguments (JSON) the pieces are.

    pieces: tokens, joined they are the whole; key: 24 hex digits, its own, to make the id of a call or an item of.
    """

    pieces: Sequence[str]
    key: str
    tool: str = ""

    @property
    def text(self) -> str:
        return "".join(self.pieces)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A reply before it is paced out: one text, or one or more calls; no part at all when it was "blocked".

    finish: "length" when the token limit cut it, "stop_sequence" with the sequence in stopped_by, "tool" when
    functions are called, else "stop". key: 32 hex digits drawn from the seed. created: seconds of the Unix time.
    """

    asked: Asked
    parts: Sequence[Part]
    finish: Finish
    key: str
    created: int
    stopped_by: str = ""

    @property
    def tokens(self) -> int:
        """How many tokens the reply has: completion, output or candidates tokens in the vendors' words."""
        return sum(len(part.pieces) for part in self.parts)


class Shape(Protocol):
    """How an API dresses one reply; one object for each request. The methods are called in this order, or `whole`."""

    @property
    def content_type(self) -> str:
        """Of the stream, with its charset: EVENT_STREAM in most APIs."""
        ...

    def opening(self) -> bytes:
        """What comes before the first token."""
        ...

    def deltas(self) -> Iterator[bytes]:
        """One for each piece of each part, in order, with whatever begins or ends a part around it; b"" for a piece
        that is not sent alone. What is yielded beyond that goes out with the closing."""
        ...

    def closing(self) -> bytes:
        """What comes after the last token."""
        ...

    def whole(self) -> bytes:
        """The body of the answer that is not streamed."""
        ...


class API(Protocol):
    """What an API module brings: see the head of this file."""

    @property
    def name(self) -> str: ...

    def authenticate(self, request: web.Request) -> None:
        """Raises Refused unless the key is accepted."""
        ...

    def read(self, request: web.Request, raw: bytes) -> Asked:
        """Parse a request. Raises Refused."""
        ...

    def fated(self, outcome: str) -> Refused:
        """The vendor's refusal for http_401, http_429 (with Retry-After), http_500, http_503, quota (overloaded)."""
        ...

    def error(self, refusal: Refused) -> Mapping[str, JSON]:
        """The body of an error."""
        ...

    def headers(self, number: int) -> Mapping[str, str]:
        """The vendor's own headers of the answer to request `number`, errors included."""
        ...

    def outline(self, request: web.Request, raw: bytes) -> Asked:
        """What can be told of a request that `read` refuses and an upstream may well accept. Raises nothing."""
        ...

    def ear(self) -> Ear:
        """A new one, to understand an upstream's answer to one request."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the twins of all vendors can be told beside their behaviour.

    models: those that exist, empty for any; api_key: the one that is accepted, "" for any; gullible: the receptionist
    obeys instructions of the caller (a defect). upstream: the URL of the real API, which answers in the receptionist's
    place and to which the client's own key is passed on; the other three cannot be set beside it. Raises PlanError.
    """

    models: Sequence[str] = ()
    api_key: str = ""
    gullible: bool = False
    upstream: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.models, str):  # a text is a sequence, too: of letters
            raise PlanError(f"models is {self.models!r}; it must be a list of names.")
        if not self.upstream:
            return
        Upstream.parse(self.upstream)
        idle = [name for name in ("models", "api_key", "gullible") if getattr(self, name)]
        if idle:
            raise PlanError(
                f"upstream is set, and so is {' and '.join(idle)}: with an upstream it is the real model that knows "
                "keys and models and obeys or refuses; leave one of the two out."
            )

    def as_json(self) -> dict[str, JSON]:
        return {
            "models": list(self.models),
            "api_key": self.api_key,
            "gullible": self.gullible,
            "upstream": self.upstream,
        }

    @staticmethod
    def read(more: Mapping[str, JSON]) -> Settings:
        """Read what `as_json` wrote; all may be missing. Raises PlanError."""
        models, gullible, upstream = more.get("models", []), more.get("gullible", False), more.get("upstream", "")
        if unknown := more.keys() - {"models", "api_key", "gullible", "upstream"}:
            known = "models, api_key, gullible, upstream"
            raise PlanError(f"setting {min(unknown)!r} is unknown to this twin; known are {known}.")
        if not isinstance(models, list) or not all(isinstance(model, str) for model in models):
            raise PlanError(f"models is {models!r}; it must be a list of names.")
        api_key = text_setting(more, "api_key")
        if gullible not in (0, 1, False, True):
            raise PlanError(f"gullible is {gullible!r}; it must be true or false.")
        if not isinstance(upstream, str):
            raise PlanError(f'upstream is {upstream!r}; it must be a URL, or "" for none.')
        return Settings(
            models=[str(model) for model in models], api_key=api_key, gullible=bool(gullible), upstream=upstream
        )
