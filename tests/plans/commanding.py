"""An agent of a few lines for every carrier with an HTTP API: it takes each call, sounds, and hangs up over the API.

A program of its own, which reads PORT, API (the carrier's address) and, of the carriers of documents, ACCOUNT, TOKEN.
"""

import asyncio
import base64
import json
import os
import signal
from collections.abc import Mapping

from aiohttp import BasicAuth, ClientSession, web

SOUND = base64.b64encode(b"\x00\x80" * 80).decode()  # 20 ms of PCMU, as loud as can be
HTTP = web.AppKey("http", ClientSession)
HERE = f"127.0.0.1:{os.environ['PORT']}"


async def healthy(_: web.Request) -> web.Response:
    return web.Response()


async def webhook(request: web.Request) -> web.Response:
    event = (await request.json())["data"]
    if event["event_type"] == "call.initiated":
        stream = {"stream_url": f"ws://{HERE}/media", "stream_bidirectional_mode": "rtp"}
        url = f"{os.environ['API']}/calls/{event['payload']['call_control_id']}/actions/answer"
        await commanded(request, url, {**stream, "stream_bidirectional_codec": "PCMU"})
    return web.Response()


async def voice(_: web.Request) -> web.Response:
    more = ' bidirectionalMode="rtp" bidirectionalCodec="PCMU"' if "TOKEN" not in os.environ else ""
    document = f'<Response><Connect><Stream url="ws://{HERE}/media"{more}/></Connect></Response>'
    return web.Response(text=document, content_type="text/xml")


async def commanded(request: web.Request, url: str, body: Mapping[str, str]) -> None:
    """Raises AssertionError when the carrier does not do it."""
    account, token = os.environ.get("ACCOUNT", ""), os.environ.get("TOKEN")
    if token is not None:
        asked = request.app[HTTP].post(url, data=body, auth=BasicAuth(account, token))
    else:
        asked = request.app[HTTP].post(url, json=body, headers={"authorization": "Bearer key"})
    async with asked as answer:
        assert answer.status == 200, await answer.text()


async def media(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    start = json.loads((await socket.receive(5)).data)
    while start["event"] != "start":
        start = json.loads((await socket.receive(5)).data)
    told, stream = start["start"], start.get("streamSid")
    sound = {"event": "media", "media": {"payload": SOUND}} | ({"streamSid": stream} if stream else {})
    for _ in range(20):
        await socket.send_json(sound)
    for _ in range(10):  # frames of the caller: in the middle of the call
        await socket.receive(5)
    account, api = os.environ.get("ACCOUNT", ""), os.environ["API"]
    if "TOKEN" in os.environ:
        url = f"{api}/2010-04-01/Accounts/{account}/Calls/{told['callSid']}.json"
        await commanded(request, url, {"Status": "completed"})
    elif account:
        url = f"{api}/texml/Accounts/{account}/Calls/{told['call_control_id']}"
        await commanded(request, url, {"Status": "completed"})
    else:
        await commanded(request, f"{api}/calls/{told['call_control_id']}/actions/hangup", {})
    async for _ in socket:
        pass
    return socket


async def main() -> None:
    app = web.Application()
    app.router.add_get("/health", healthy)
    app.router.add_post("/api/telnyx/webhook", webhook)
    app.router.add_post("/api/texml/voice", voice)
    app.router.add_post("/api/twilio/voice", voice)
    app.router.add_get("/media", media)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with ClientSession() as app[HTTP]:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", int(os.environ["PORT"])).start()
        await ended.wait()
        await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main())
