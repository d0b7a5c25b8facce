"""An agent of a few lines that speaks Telnyx: it answers, greets and listens; or does the mischief it is told to do.

A program of its own: `python agent.py [MISCHIEF]`, which reads PORT, TELNYX_API_BASE and, if set, OPENAI_BASE_URL.
"""

import asyncio
import base64
import json
import os
import signal
import sys
from typing import Any

from aiohttp import ClientSession, web

MISCHIEF = " ".join(sys.argv[1:])
SOUND = base64.b64encode(b"\x00\x80" * 80).decode()  # 20 ms of PCMU, as loud as can be
MEDIA = json.dumps({"event": "media", "media": {"payload": SOUND}})
RTP = {"stream_bidirectional_mode": "rtp", "stream_bidirectional_codec": "PCMU"}
HTTP = web.AppKey("http", ClientSession)
FRAMES: dict[str, list[str | bytes]] = {
    "sends malformed JSON": ['{"event": "media", "media": {"payload": '] * 150,
    "sends half a character": ['{"event": "media", "media": {"payload": "\\ud800"}}'] * 150,
    "sends binary frames": [b"\x00" * 160],
    "sends frames of 2 MB": [json.dumps({"event": "media", "media": {"payload": "A" * (2 << 20)}})],
    "sends frames of 16 MB": ["A" * (16 << 20)],
    "sends a minute in one frame": [json.dumps({"event": "media", "media": {"payload": "A" * (60 * 8000 * 4 // 3)}})],
}


async def healthy(_: web.Request) -> web.Response:
    return web.Response(status=503 if MISCHIEF == "never gets healthy" else 200)


async def webhook(request: web.Request) -> web.Response:
    event = (await request.json())["data"]
    if event["event_type"] != "call.initiated" or MISCHIEF == "never answers":
        return web.Response()
    if MISCHIEF.startswith("refuses with"):
        return web.Response(status=int(MISCHIEF.split()[-1]), text="not for you")
    if MISCHIEF == "hangs in the webhook":
        await asyncio.Event().wait()
    call = event["payload"]["call_control_id"]
    if MISCHIEF == "rejects":
        await command(request, call, "reject", cause="USER_BUSY")
    else:
        await command(request, call, "answer", **stream())
    if MISCHIEF == "hangs up at once":
        await command(request, call, "hangup")
    return web.Response()


def stream() -> dict[str, Any]:
    here = f"ws://127.0.0.1:{os.environ['PORT']}"
    match MISCHIEF:
        case "starts no stream":
            return {}
        case "gives a wrong path":
            return {"stream_url": f"{here}/nowhere", **RTP}
        case "gives another machine":
            return {"stream_url": "wss://agent.example.com/media", **RTP}
        case "asks for a codec there is not":
            return {"stream_url": f"{here}/media", **RTP, "stream_bidirectional_codec": "OPUS"}
        case _:
            return {"stream_url": f"{here}/media", **RTP}


async def command(request: web.Request, call: str, action: str, **body: Any) -> None:
    url = f"{os.environ['TELNYX_API_BASE']}/calls/{call}/actions/{action}"
    async with request.app[HTTP].post(url, json=body, headers={"authorization": "Bearer key"}) as answer:
        await answer.read()


async def media(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    if MISCHIEF in ("hangs in the handshake", "hangs up at once"):
        await asyncio.Event().wait()
    if MISCHIEF == "slams the door":
        request.transport.abort()
        return web.Response()
    socket = web.WebSocketResponse(max_msg_size=0)
    await socket.prepare(request)
    started = json.loads((await socket.receive(30)).data)
    while started["event"] != "start":
        started = json.loads((await socket.receive(30)).data)
    if model := os.environ.get("OPENAI_BASE_URL"):
        asked = {"model": "gpt-4o", "messages": [{"role": "user", "content": "What do you say?"}]}
        async with request.app[HTTP].post(f"{model}/chat/completions", json=asked) as answer:
            await answer.read()
    for _ in range(20):
        await socket.send_str(MEDIA)
    await mischief(request, socket, started["start"]["call_control_id"])
    async for _ in socket:
        pass
    return socket


async def mischief(request: web.Request, socket: web.WebSocketResponse, call: str) -> None:
    assert request.transport is not None
    for frame in FRAMES.get(MISCHIEF, ()):
        await (socket.send_bytes(frame) if isinstance(frame, bytes) else socket.send_str(frame))
    match MISCHIEF:
        case "floods":
            while not socket.closed:
                await socket.send_str(MEDIA)
        case "floods for ever":
            head = bytes([0x81, 126, *len(MEDIA).to_bytes(2, "big")])
            while not request.transport.is_closing():
                request.transport.write(100 * (head + MEDIA.encode()))
                await asyncio.sleep(0)
        case "closes the socket":
            await socket.close(code=4000, message=b"enough")
        case "breaks the socket":
            request.transport.abort()
        case "hangs up":
            await command(request, call, "hangup")
        case "dies in a call":
            sys.stderr.write("out of ideas\n")
            sys.stderr.flush()
            os._exit(7)


async def main() -> None:
    app = web.Application()
    app.router.add_get("/health", healthy)
    app.router.add_post("/api/telnyx/webhook", webhook)
    app.router.add_get("/media", media)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    ended = asyncio.Event()

    def asked_to_end() -> None:
        if MISCHIEF != "ignores SIGTERM":
            ended.set()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked_to_end)
    async with ClientSession() as app[HTTP]:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", int(os.environ["PORT"])).start()
        await ended.wait()
        await runner.cleanup()


if __name__ == "__main__":
    if MISCHIEF == "dies at start":
        sys.exit("no API key: set AGENT_KEY")
    asyncio.run(main())
