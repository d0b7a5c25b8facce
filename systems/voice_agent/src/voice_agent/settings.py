"""Settings, read once from the environment and checked all at once: every problem is told, not only the first."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlsplit

from voice_agent.defects import Switched

T = TypeVar("T")


class SettingsError(Exception):
    """What is wrong with the environment, one sentence a problem."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


@dataclass(frozen=True, slots=True)
class Account:
    """At a vendor of language models."""

    api_key: str
    base_url: str
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How the agent runs. Names are those of the environment, in lower case; `.env.example` tells of each."""

    host: str
    port: int
    public_url: str
    telnyx_api_key: str
    telnyx_api_base: str
    telnyx_public_key: bytes | None  # None: webhooks are not verified (TELNYX_VERIFY=off)
    telnyx_voice: str
    media_auth: bool
    llm_chain: tuple[str, ...]  # of LANGUAGE_MODELS, in the order in which they are asked
    openai: Account
    anthropic: Account
    gemini: Account
    deepgram_api_key: str
    deepgram_url: str  # ws:// or wss://
    deepgram_model: str
    deepgram_fallback_url: str  # "" or ws:// or wss://
    deepgram_fallback_api_key: str
    tts_chain: tuple[str, ...]  # of VOICES
    cartesia_api_key: str
    cartesia_url: str  # ws:// or wss://
    cartesia_version: str
    cartesia_model: str
    cartesia_voice: str
    elevenlabs_api_key: str
    elevenlabs_url: str  # ws:// or wss://
    elevenlabs_model: str
    elevenlabs_voice: str
    greeting: str
    system_prompt: str
    transfer_number: str
    tools: tuple[str, ...]  # of TOOLS
    company_api_url: str  # "": appointments are kept in memory
    summary: bool
    vad: str
    silero_model: str
    vad_start_ms: int
    vad_stop_ms: int
    connect_seconds: float
    final_seconds: float
    first_token_seconds: float
    between_tokens_seconds: float
    first_audio_seconds: float
    between_audio_seconds: float
    dead_air_seconds: float
    attempt_seconds: float  # for one vendor of several
    breaker_failures: int
    breaker_open_seconds: float
    media_idle_seconds: float
    max_calls: int
    max_call_seconds: float
    shutdown_seconds: float
    defect: Switched
    defect_seed: int
    log_level: str
    error_log: str
    error_log_bytes: int

    @property
    def stream_url(self) -> str:
        """Where the carrier's media WebSocket finds us."""
        return _websocket(self.public_url)

    @property
    def deepgram_hosts(self) -> list[tuple[str, str, str]]:
        """Name, URL and key of each."""
        hosts = [("deepgram", self.deepgram_url, self.deepgram_api_key)]
        if self.deepgram_fallback_url:
            hosts.append(("deepgram_fallback", self.deepgram_fallback_url, self.deepgram_fallback_api_key))
        return hosts

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Raises SettingsError with every problem there is."""
        read = _Reader(environment)
        host, port = read.text("HOST", "127.0.0.1"), read.integer("PORT", 8080, at_least=1, at_most=65535)
        settings = cls(
            host=host,
            port=port,
            public_url=read.url("PUBLIC_URL", f"http://127.0.0.1:{port}"),
            telnyx_api_key=read.required("TELNYX_API_KEY"),
            telnyx_api_base=read.url("TELNYX_API_BASE", "https://api.telnyx.com/v2"),
            telnyx_public_key=read.public_key(),
            telnyx_voice=read.text("TELNYX_VOICE", "female"),
            media_auth=read.choice("MEDIA_AUTH", "token", ("token", "off")) == "token",
            llm_chain=read.chain("LLM_CHAIN", LANGUAGE_MODELS),
            openai=read.account("OPENAI", "https://api.openai.com/v1", "gpt-4.1-mini"),
            anthropic=read.account("ANTHROPIC", "https://api.anthropic.com", "claude-haiku-4-5"),
            gemini=read.account(
                "GEMINI",
                read.text("GOOGLE_GEMINI_BASE_URL", "https://generativelanguage.googleapis.com"),
                "gemini-2.5-flash-lite",
            ),
            deepgram_api_key=read.required("DEEPGRAM_API_KEY"),
            deepgram_url=_websocket(read.url("DEEPGRAM_URL", "https://api.deepgram.com")),
            deepgram_model=read.text("DEEPGRAM_MODEL", "nova-3"),
            deepgram_fallback_url=_websocket(read.url("DEEPGRAM_FALLBACK_URL", "", optional=True)),
            deepgram_fallback_api_key=read.text("DEEPGRAM_FALLBACK_API_KEY", read.text("DEEPGRAM_API_KEY", "")),
            tts_chain=read.chain("TTS_CHAIN", VOICES),
            cartesia_api_key=read.text("CARTESIA_API_KEY", ""),
            cartesia_url=_websocket(read.url("CARTESIA_URL", "https://api.cartesia.ai")),
            cartesia_version=read.text("CARTESIA_VERSION", "2026-08-14"),
            cartesia_model=read.text("CARTESIA_MODEL", "sonic-3"),
            cartesia_voice=read.text("CARTESIA_VOICE", "a0e99841-438c-4a64-b679-ae501e7d6091"),
            elevenlabs_api_key=read.text("ELEVENLABS_API_KEY", ""),
            elevenlabs_url=_websocket(read.url("ELEVENLABS_URL", "https://api.elevenlabs.io")),
            elevenlabs_model=read.text("ELEVENLABS_MODEL", "eleven_flash_v2_5"),
            elevenlabs_voice=read.text("ELEVENLABS_VOICE", "21m00Tcm4TlvDq8ikWAM"),
            greeting=read.text("GREETING", "Thank you for calling Riverside Dental. How can I help you today?"),
            system_prompt=read.text("SYSTEM_PROMPT", SYSTEM_PROMPT),
            transfer_number=read.text("TRANSFER_NUMBER", ""),
            tools=read.tools(),
            company_api_url=read.url("COMPANY_API_URL", "", optional=True),
            summary=read.choice("SUMMARY", "off", ("on", "off")) == "on",
            vad=read.choice("VAD", "energy", ("energy", "silero")),
            silero_model=read.text("SILERO_MODEL", ""),
            vad_start_ms=read.integer("VAD_START_MS", 120, at_least=20, at_most=2000),
            vad_stop_ms=read.integer("VAD_STOP_MS", 200, at_least=20, at_most=5000),
            connect_seconds=read.seconds("CONNECT_SECONDS", 2.0),
            final_seconds=read.seconds("FINAL_SECONDS", 1.0),
            first_token_seconds=read.seconds("FIRST_TOKEN_SECONDS", 2.0),
            between_tokens_seconds=read.seconds("BETWEEN_TOKENS_SECONDS", 2.0),
            first_audio_seconds=read.seconds("FIRST_AUDIO_SECONDS", 2.0),
            between_audio_seconds=read.seconds("BETWEEN_AUDIO_SECONDS", 1.5),
            dead_air_seconds=read.seconds("DEAD_AIR_SECONDS", 2.6),
            attempt_seconds=read.seconds("ATTEMPT_SECONDS", 1.2),
            breaker_failures=read.integer("BREAKER_FAILURES", 5, at_least=1, at_most=1000),
            breaker_open_seconds=read.seconds("BREAKER_OPEN_SECONDS", 60.0),
            media_idle_seconds=read.seconds("MEDIA_IDLE_SECONDS", 10.0),
            max_calls=read.integer("MAX_CALLS", 100, at_least=1, at_most=100_000),
            max_call_seconds=read.seconds("MAX_CALL_SECONDS", 1800.0),
            shutdown_seconds=read.seconds("SHUTDOWN_SECONDS", 5.0),
            defect=read.parsed("DEFECT", Switched.parse, ""),
            defect_seed=read.integer("DEFECT_SEED", 1, at_least=0, at_most=2**63),
            log_level=read.choice("LOG_LEVEL", "INFO", ("DEBUG", "INFO", "WARNING", "ERROR")),
            error_log=read.text("ERROR_LOG", ""),
            error_log_bytes=read.integer("ERROR_LOG_BYTES", 10_000_000, at_least=10_000, at_most=10**12),
        )
        if read.problems:
            raise SettingsError(read.problems)
        return settings


LANGUAGE_MODELS = ("openai", "anthropic", "gemini")
VOICES = ("cartesia", "elevenlabs")
TOOLS = ("transfer", "appointments")

SYSTEM_PROMPT = (
    "You are the receptionist of Riverside Dental and speak with a caller on the telephone. Answer in one or two short "
    "spoken sentences, without lists, symbols or abbreviations. Opening hours: Monday to Friday eight to six, Saturday "
    "nine to one, closed on Sundays and public holidays. A cleaning costs ninety dollars, the first consultation is "
    "free. When the caller has no further wish, say good wishes and end with the word goodbye."
)


def _key(vendor: str) -> str:
    return f"{vendor.upper()}_API_KEY"


def _websocket(url: str) -> str:
    return "ws" + url.removeprefix("http") if url.startswith("http") else url


class _Reader:
    """Reads one environment; collects the problems instead of raising the first."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self.problems: list[str] = []

    def text(self, name: str, default: str) -> str:
        return self._environment.get(name, "").strip() or default

    def required(self, name: str) -> str:
        value = self.text(name, "")
        if not value:
            self.problems.append(f"{name} is required")
        return value

    def account(self, vendor: str, base_url: str, model: str) -> Account:
        return Account(
            self.text(f"{vendor}_API_KEY", ""),
            self.url(f"{vendor}_BASE_URL", base_url),
            self.text(f"{vendor}_MODEL", model),
        )

    def chain(self, name: str, known: tuple[str, ...]) -> tuple[str, ...]:
        """The vendors that are named, or else those that there is a key for."""
        named = self.names(name)
        if not named:
            with_key = tuple(vendor for vendor in known if self.text(_key(vendor), ""))
            if not with_key:
                others = " or ".join(map(_key, known[1:]))
                self.problems.append(f"{_key(known[0])} is required (or {others})")
            return with_key
        for vendor in named:
            if vendor not in known:
                self.problems.append(f"{name} names {vendor!r}; there are {', '.join(known)}")
            elif not self.text(_key(vendor), ""):
                self.problems.append(f"{_key(vendor)} is required, since {name} names {vendor}")
        if len(set(named)) < len(named):
            self.problems.append(f"{name} names a vendor twice: {', '.join(named)}")
        return named

    def tools(self) -> tuple[str, ...]:
        """Those that are named, or else the transfer if there is anybody to transfer to."""
        named, number = self.names("TOOLS"), self.text("TRANSFER_NUMBER", "")
        for tool in named:
            if tool not in TOOLS:
                self.problems.append(f"TOOLS names {tool!r}; there are {', '.join(TOOLS)}")
        if "transfer" in named and not number:
            self.problems.append("TRANSFER_NUMBER is required, since TOOLS names transfer")
        return named or (("transfer",) if number else ())

    def names(self, name: str) -> tuple[str, ...]:
        return tuple(filter(None, (part.strip().lower() for part in self.text(name, "").split(","))))

    def url(self, name: str, default: str, *, optional: bool = False) -> str:
        value = self.text(name, default).rstrip("/")
        if optional and not value:
            return ""
        try:
            parts = urlsplit(value)
            good = parts.scheme in ("http", "https", "ws", "wss") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # an unusable port
            good = False
        if not good:
            self.problems.append(f"{name} must be an http(s) or ws(s) URL, not {value!r}")
        return value

    def choice(self, name: str, default: str, choices: tuple[str, ...]) -> str:
        value = self.text(name, default)
        for choice in choices:
            if value.lower() == choice.lower():
                return choice
        self.problems.append(f"{name} must be one of {', '.join(choices)}, not {value!r}")
        return default

    def integer(self, name: str, default: int, *, at_least: int, at_most: int) -> int:
        value = self.parsed(name, int, str(default), "a whole number", default)
        if not at_least <= value <= at_most:
            self.problems.append(f"{name} must be between {at_least} and {at_most}, not {value}")
        return value

    def seconds(self, name: str, default: float) -> float:
        value = self.parsed(name, float, str(default), "a number of seconds", default)
        if not 0 < value < 1e6:
            self.problems.append(f"{name} must be a number of seconds above 0, not {value:g}")
        return value

    def parsed(
        self, name: str, parse: Callable[[str], T], default: str, expected: str = "", instead: T | None = None
    ) -> T:
        value = self.text(name, default)
        try:
            return parse(value)
        except ValueError as error:
            self.problems.append(f"{name} must be {expected}, not {value!r}" if expected else f"{name}: {error}")
            return parse(default) if instead is None else instead

    def public_key(self) -> bytes | None:
        if self.choice("TELNYX_VERIFY", "on", ("on", "off")) == "off":
            return None
        value = self.text("TELNYX_PUBLIC_KEY", "")
        if not value:
            self.problems.append("TELNYX_PUBLIC_KEY is required (or TELNYX_VERIFY=off, for local trials only)")
            return None
        try:
            key = base64.b64decode(value, validate=True)
        except binascii.Error:
            key = b""
        if len(key) != 32:
            self.problems.append("TELNYX_PUBLIC_KEY must be the base64 of a 32-byte Ed25519 key")
        return key
