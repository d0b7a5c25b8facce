"""What all calls share: the vendors in the order in which they are asked, each with its breaker and connections."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from voice_agent.appointments import Appointments, Book, Company
from voice_agent.breaker import Breaker
from voice_agent.defects import Defects
from voice_agent.llm.anthropic import Anthropic
from voice_agent.llm.chain import Models
from voice_agent.llm.gemini import Gemini
from voice_agent.llm.model import Dialect as LlmDialect
from voice_agent.llm.model import Model
from voice_agent.llm.openai import OpenAI
from voice_agent.log import Log
from voice_agent.metrics import Metrics
from voice_agent.pools import aired, connections, pool
from voice_agent.settings import Settings
from voice_agent.stt import Host
from voice_agent.tools import Tools
from voice_agent.tts.cartesia import Cartesia
from voice_agent.tts.chain import Voices
from voice_agent.tts.elevenlabs import ElevenLabs
from voice_agent.tts.voice import Dialect as TtsDialect
from voice_agent.tts.voice import Voice
from voice_agent.usage import Usage
from voice_agent.vad import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class Equipment:
    """For a conversation."""

    settings: Settings
    models: Models
    appointments: Appointments
    hosts: Sequence[Host]  # of speech recognition
    speakers: Sequence[tuple[TtsDialect, Breaker]]
    telnyx: httpx.AsyncClient
    pools: Mapping[str, httpx.AsyncClient]  # all that there are, this one too
    metrics: Metrics
    defects: Defects
    silero: Session | None

    def voices(self, usage: Usage, log: Log) -> Voices:
        """One call's: each call has connections of its own."""
        alone = len(self.speakers) == 1
        voices = [
            Voice(dialect, breaker, self.settings, patient=alone, metrics=self.metrics, usage=usage, log=log)
            for dialect, breaker in self.speakers
        ]
        return Voices(voices, defects=self.defects)

    def connections(self) -> dict[str, int]:
        """Open ones, by pool, whether or not they are in use."""
        return {name: connections(client) for name, client in self.pools.items()}

    def tools(self, start: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]], log: Log) -> Tools:
        """One call's; `start` begins what is to outlive it."""
        return Tools(
            self.settings.tools,
            self.appointments,
            start=start,
            metrics=self.metrics,
            defects=self.defects,
            log=log,
        )


@asynccontextmanager
async def equipped(
    settings: Settings, *, metrics: Metrics, defects: Defects, silero: Session | None
) -> AsyncIterator[Equipment]:
    """With connections to all vendors that the settings name; closed on the way out."""

    def breaker(provider: str) -> Breaker:
        return Breaker(provider, settings, metrics=metrics, defects=defects)

    models: list[Model] = []
    pools: dict[str, httpx.AsyncClient] = {}
    async with AsyncExitStack() as stack:
        dialects = _dialects(settings)
        tls = _tls(settings.telnyx_api_base, settings.company_api_url, *(dialect.base_url for dialect in dialects))
        for dialect in dialects:
            client = pools[dialect.name] = pool(dialect.base_url, dialect.headers, settings, tls)
            await stack.enter_async_context(client)
            models.append(Model(dialect, client, breaker(dialect.name), defects=defects))
        authorization = {"Authorization": f"Bearer {settings.telnyx_api_key}"}
        telnyx = pools["telnyx"] = pool(settings.telnyx_api_base, authorization, settings, tls)
        await stack.enter_async_context(telnyx)
        appointments: Appointments = Book()
        if company := settings.company_api_url:
            client = pools["company"] = pool(company, {}, settings, tls)
            appointments = Company(await stack.enter_async_context(client))
        await stack.enter_async_context(aired(pools))
        yield Equipment(
            settings=settings,
            models=Models(models, settings, metrics=metrics, defects=defects),
            appointments=appointments,
            hosts=[Host(name, url, key, breaker(name)) for name, url, key in settings.deepgram_hosts],
            speakers=[(speaker, breaker(speaker.name)) for speaker in _speakers(settings)],
            telnyx=telnyx,
            pools=pools,
            metrics=metrics,
            defects=defects,
            silero=silero,
        )


def _dialects(settings: Settings) -> list[LlmDialect]:
    known: dict[str, LlmDialect] = {
        "openai": OpenAI(settings.openai),
        "anthropic": Anthropic(settings.anthropic),
        "gemini": Gemini(settings.gemini),
    }
    return [known[name] for name in settings.llm_chain]


def _speakers(settings: Settings) -> list[TtsDialect]:
    known: dict[str, TtsDialect] = {"cartesia": Cartesia(settings), "elevenlabs": ElevenLabs(settings)}
    return [known[name] for name in settings.tts_chain]


def _tls(*urls: str) -> ssl.SSLContext | bool:
    """One for all, as loading the certificates takes 20 ms; none if nobody needs it."""
    return httpx.create_ssl_context(trust_env=False) if any(url.startswith("https:") for url in urls) else False
