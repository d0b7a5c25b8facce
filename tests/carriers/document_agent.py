"""A small agent that answers with documents, for the tests of Twilio's and TeXML's twins."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientSession, encode_basic_auth, web

from busyhour.carriers import TeXML, Twilio
from busyhour.carriers.line import CallerLine
from busyhour.model import SECOND, CallFailed, CallSetup, Endpoint, HeardKind, Line

from .agent import CLOCK, Listener

SETUP = CallSetup(id="steady/1", answer_within_ns=60 * SECOND)
VOICE = {Twilio: "/api/twilio/voice", TeXML: "/api/texml/voice"}

Talk = Callable[["DocumentAgent", web.WebSocketResponse], Awaitable[None]]


async def listening(agent: DocumentAgent, ws: web.WebSocketResponse) -> None:
    """Say nothing, and note every frame."""
    async for message in ws:
        await agent.saw(json.loads(message.data))


def response(*verbs: str) -> str:
    return f'<?xml version="1.0" encoding="UTF-8"?><Response>{"".join(verbs)}</Response>'


class DocumentAgent(Listener):
    """Answers requests by path: `documents[path]` are its answers, the last one for ever. Notes what it is asked."""

    def __init__(self, talk: Talk = listening) -> None:
        super().__init__(talk)
        self.documents: dict[str, list[str | web.Response]] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []  # path, fields
        self.requests: list[tuple[str, str, dict[str, str], dict[str, str], bytes]] = []
        self.held = asyncio.Event()  # while it is clear, "/hold" does not answer
        self.url = ""
        self.carrier = Endpoint("")
        self.api = ""

    @property
    def stream_url(self) -> str:
        return self.url.replace("http", "ws") + "/media"

    async def answer(self, request: web.Request) -> web.Response:
        raw = await request.read()
        fields = {name: str(value) for name, value in (await request.post() or request.query).items()}
        async with self._news:
            self.asked.append((request.path, fields))
            url = f"{request.scheme}://{request.host}{request.path_qs}"
            self.requests.append((request.method, url, dict(request.headers), fields, raw))
            self._news.notify_all()
        if request.path == "/hold":
            await self.held.wait()
        answers = self.documents.get(request.path, [web.Response(status=204)])
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, str):
            text = answer.format(media=self.stream_url, url=self.url)
            return web.Response(text=text, content_type="text/xml")
        return web.Response(status=answer.status, body=answer.body, content_type=answer.content_type)

    async def told(self, path: str, count: int = 1) -> list[dict[str, str]]:
        """The fields of the requests for that path, once there are so many."""

        def fields() -> list[dict[str, str]]:
            return [fields for asked, fields in self.asked if asked == path]

        return await self.come(fields, count)

    async def api_call(self, carrier: Twilio, method: str, sid: str, **fields: str) -> tuple[int, dict[str, Any]]:
        url = f"{self.api}/2010-04-01/Accounts/{carrier.account_sid}/Calls/{sid}.json"
        headers = {"authorization": encode_basic_auth(carrier.account_sid, carrier.auth_token)}
        async with ClientSession() as session, session.request(method, url, data=fields, headers=headers) as answer:
            return answer.status, await answer.json()


@asynccontextmanager
async def serving(agent: DocumentAgent, carrier: Twilio | TeXML) -> AsyncIterator[Endpoint]:
    app = web.Application()
    app.router.add_get("/media", agent.media)
    app.router.add_route("*", "/{path:.*}", agent.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        agent.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with carrier.running({}) as endpoint:
            agent.carrier, agent.api = endpoint, endpoint.url
            yield Endpoint(agent.url)
    finally:
        await runner.cleanup()


@asynccontextmanager
async def calling(
    agent: DocumentAgent, *verbs: str, carrier: Twilio | TeXML | None = None, setup: CallSetup = SETUP
) -> AsyncIterator[CallerLine]:
    """Call the agent, which answers with these verbs."""
    carrier = carrier or Twilio()
    agent.documents.setdefault(VOICE[type(carrier)], [response(*verbs)])
    async with serving(agent, carrier) as target, carrier.dial(target, setup) as line:
        assert isinstance(line, CallerLine)
        yield line


async def ended(line: Line) -> str:
    while True:
        heard = await line.hear(CLOCK.now_ns() + 60 * SECOND)
        assert heard is not None
        if heard.kind == HeardKind.ENDED:
            return heard.detail


async def failure(
    *verbs: str, agent: DocumentAgent | None = None, carrier: Twilio | TeXML | None = None, **setup: Any
) -> CallFailed:
    """What a call that is not established fails with."""
    agent, carrier = agent or DocumentAgent(), carrier or Twilio()
    agent.documents.setdefault(VOICE[type(carrier)], [response(*verbs)])
    placed = CallSetup(id="steady/1", **({"answer_within_ns": 60 * SECOND} | setup))
    async with serving(agent, carrier) as target:
        with pytest.raises(CallFailed) as failed:
            async with carrier.dial(target, placed):
                pass
    return failed.value
