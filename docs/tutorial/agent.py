"""A small voice agent for the tutorial: 16-bit PCM at 16 kHz over a plain WebSocket, both ways.

It hears by Deepgram, thinks by OpenAI and speaks by Cartesia, each at the URL that its environment names.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator

from aiohttp import ClientSession, ClientWebSocketResponse, WSMsgType, web

DEEPGRAM, OPENAI, CARTESIA = (os.environ[name] for name in ("DEEPGRAM_URL", "OPENAI_BASE_URL", "CARTESIA_URL"))
PATIENCE_SECONDS = float(os.environ.get("PATIENCE_SECONDS", "60"))  # for the model's first sentence
KEY = "of-the-twin"
LISTEN = "/v1/listen?model=nova-3&encoding=linear16&sample_rate=16000&interim_results=true&endpointing=300"
PCM = {"container": "raw", "encoding": "pcm_s16le", "sample_rate": 16000}
FRAME_BYTES, FRAME_SECONDS, AHEAD_SECONDS = 640, 0.02, 0.1
GREETING = "Thank you for calling Riverside Dental. How can I help you today?"
SORRY = "I am sorry, I am having some trouble right now. Could you ask me again?"


async def media(request: web.Request) -> web.WebSocketResponse:
    """One call: it begins when the socket opens, and ends with it."""
    caller = web.WebSocketResponse()
    await caller.prepare(request)
    async with (
        ClientSession() as vendors,
        vendors.ws_connect(DEEPGRAM + LISTEN, headers={"Authorization": f"Token {KEY}"}) as ears,
    ):
        conversation = asyncio.create_task(converse(caller, ears, vendors))
        try:
            async for message in caller:
                if message.type is WSMsgType.BINARY:
                    await ears.send_bytes(message.data)
        finally:
            conversation.cancel()
            await asyncio.wait([conversation])
    return caller


async def converse(caller: web.WebSocketResponse, ears: ClientWebSocketResponse, vendors: ClientSession) -> None:
    """Answer each utterance; stop speaking when the caller does not."""
    history, heard = [{"role": "system", "content": "You are a receptionist. Answer in one sentence."}], []
    speaking = asyncio.create_task(say(caller, vendors, GREETING))
    try:
        async for message in ears:
            told = json.loads(message.data)
            if told.get("type") != "Results":
                continue
            words = told["channel"]["alternatives"][0]["transcript"]
            if words:
                speaking.cancel()
            if words and told["is_final"]:
                heard.append(words)
            if told["speech_final"] and heard:
                history.append({"role": "user", "content": " ".join(heard)})
                heard.clear()
                speaking = asyncio.create_task(reply(caller, vendors, history))
    finally:  # the call is over: nothing goes on that needs its sockets
        speaking.cancel()
        await asyncio.wait([speaking])


async def reply(caller: web.WebSocketResponse, vendors: ClientSession, history: list[dict[str, str]]) -> None:
    try:
        async with asyncio.timeout(PATIENCE_SECONDS) as limit:
            async for sentence in thought(vendors, history):
                limit.reschedule(None)
                history.append({"role": "assistant", "content": sentence})
                await say(caller, vendors, sentence)
    except TimeoutError:
        await say(caller, vendors, SORRY)


async def thought(vendors: ClientSession, history: list[dict[str, str]]) -> AsyncIterator[str]:
    """The model's answer, sentence by sentence."""
    asked = {"model": "gpt-4.1-mini", "stream": True, "messages": history}
    headers = {"Authorization": f"Bearer {KEY}"}
    text = ""
    async with vendors.post(f"{OPENAI}/chat/completions", json=asked, headers=headers) as answer:
        async for line in answer.content:
            data = line.decode().removeprefix("data: ")
            if not data.startswith("{"):
                continue
            text += json.loads(data)["choices"][0]["delta"].get("content") or ""
            if text.endswith((".", "?", "!")):
                yield text.strip()
                text = ""


async def say(caller: web.WebSocketResponse, vendors: ClientSession, text: str) -> None:
    """Speak it in frames of 20 ms, at most 100 ms ahead of the caller's ear."""
    asked = {"model_id": "sonic-3", "transcript": text, "voice": {"mode": "id", "id": "any"}, "output_format": PCM}
    headers = {"X-API-Key": KEY, "Cartesia-Version": "2026-08-14"}
    async with vendors.post(f"{CARTESIA}/tts/bytes", json=asked, headers=headers) as answer:
        sound, clock = b"", asyncio.get_running_loop().time
        played_at = clock()
        async for chunk in answer.content.iter_any():
            sound += chunk
            while len(sound) >= FRAME_BYTES:
                await caller.send_bytes(sound[:FRAME_BYTES])
                sound, played_at = sound[FRAME_BYTES:], max(played_at, clock() - AHEAD_SECONDS) + FRAME_SECONDS
                await asyncio.sleep(max(0.0, played_at - AHEAD_SECONDS - clock()))


async def health(_request: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


if __name__ == "__main__":
    app = web.Application()
    app.add_routes([web.get("/media", media), web.get("/health", health)])
    web.run_app(app, host="127.0.0.1", port=int(os.environ.get("PORT", "9000")))
