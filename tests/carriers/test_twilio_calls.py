"""Calls through the Twilio twin on real loopback sockets: established, told what to do, failed, ended."""

from __future__ import annotations

import asyncio
import io
import wave

import pytest
from aiohttp import web

from busyhour.carriers import TeXML, Twilio
from busyhour.errors import ServiceError
from busyhour.model import MS, SECOND, CallFailed, CallSetup, Carrier, Endpoint, HeardKind, Metered

from .agent import CLOCK, HELLO, next_of, payload, tone
from .document_agent import SETUP, VOICE, DocumentAgent, calling, ended, failure, listening, response, serving

CONNECT = '<Connect><Stream url="{media}"/></Connect>'


async def speaking(agent: DocumentAgent, ws: web.WebSocketResponse) -> None:
    """400 ms of audio, and then listen."""
    start = await agent.hears(ws, "start")
    await ws.send_json({"event": "media", "streamSid": start["streamSid"], "media": {"payload": payload(tone(400))}})
    await listening(agent, ws)


async def closing(agent: DocumentAgent, ws: web.WebSocketResponse) -> None:
    """Listen for a moment, and close the socket."""
    await agent.hears(ws, "start")
    for _ in range(3):
        await agent.hears(ws, "media")


# ---------------------------------------------------------------- a whole call


async def test_a_call_is_announced_connected_heard_and_ended() -> None:
    agent, twilio = DocumentAgent(speaking), Twilio(status_path="/status")
    async with calling(agent, CONNECT, carrier=twilio) as line:
        onset = await next_of(line, HeardKind.ONSET)
        offset = await next_of(line, HeardKind.OFFSET)
        spoken = await line.say(HELLO)
        samples = twilio.drain(CLOCK.now_ns())
        await line.hang_up()
        statuses = await agent.told("/status", 4)
    assert 0 <= onset.at_ns - line.opened_ns < SECOND
    assert offset.at_ns - onset.at_ns == pytest.approx(400 * MS, abs=10 * MS)
    assert 180 * MS <= spoken.ended_ns - spoken.began_ns < 2 * SECOND  # 240 ms, and more where frames were late
    assert ("harness", "send_lateness_ms") in {(sample.source, sample.name) for sample in samples}
    asked = (await agent.told("/api/twilio/voice"))[0]
    assert asked["AccountSid"] == twilio.account_sid
    assert asked["CallSid"].startswith("CA")
    assert len(asked["CallSid"]) == 34
    assert (asked["From"], asked["To"], asked["CallStatus"], asked["Direction"]) == (
        SETUP.from_number,
        SETUP.to_number,
        "ringing",
        "inbound",
    )
    said = [status["CallStatus"] for status in sorted(statuses, key=lambda each: int(each["SequenceNumber"]))]
    assert said == ["initiated", "ringing", "in-progress", "completed"]
    assert [status["CallDuration"] for status in statuses if "CallDuration" in status] == ["2"]


async def test_what_stands_after_connect_is_done_when_the_agent_closes_the_socket() -> None:
    async with calling(DocumentAgent(closing), CONNECT, "<Say>Goodbye now.</Say>", "<Hangup/>") as line:
        assert (await next_of(line, HeardKind.ONSET)).at_ns > line.opened_ns
        assert await ended(line) == "hung up"
    assert any('says "Goodbye now."' in text for _, text in line.trail)
    assert line.detail == {"carrier_said": ["Goodbye now."]}


async def test_nothing_after_connect_is_a_hangup_by_the_agent() -> None:
    agent = DocumentAgent(closing)
    async with calling(agent, CONNECT) as line:
        assert await ended(line) == "hung up"
        with pytest.raises(CallFailed, match="hung up"):
            await line.say(HELLO)
        with pytest.raises(CallFailed, match="hung up"):
            await line.press("1")
        await line.hang_up()


async def test_what_is_said_before_connect_is_heard_before_the_stream_is_open() -> None:
    agent = DocumentAgent()
    async with calling(agent, "<Say>One moment.</Say>", CONNECT) as line:
        onset = await next_of(line, HeardKind.ONSET)
        assert not agent.frames
        await next_of(line, HeardKind.OFFSET)
        media = await agent.shown("media", 3)
    assert line.answered_ns <= line.opened_ns <= onset.at_ns
    assert [frame["media"]["chunk"] for frame in media[:3]] == ["1", "2", "3"]
    assert [frame["media"]["timestamp"] for frame in media[:3]] == ["0", "20", "40"]


async def test_a_sound_file_is_played_and_one_that_is_not_there_is_warned_of() -> None:
    octets = io.BytesIO()
    with wave.open(octets, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(tone(300).astype("<i2").tobytes())
    agent = DocumentAgent()
    agent.documents["/sounds/a.wav"] = [web.Response(body=octets.getvalue(), content_type="audio/wav")]
    agent.documents["/sounds/b.wav"] = [web.Response(status=404)]
    verbs = (
        "<Say/>",
        "<Play>/sounds/b.wav</Play>",
        "<Play>http://[::1/</Play>",
        "<Play>/sounds/a.wav</Play>",
        '<Play digits="5"/>',
        '<Pause length="5"/>',
    )
    async with calling(agent, *verbs) as line:
        onset, offset = await next_of(line, HeardKind.ONSET), await next_of(line, HeardKind.OFFSET)
        pressed = await next_of(line, HeardKind.DTMF)
        assert offset.at_ns - onset.at_ns == pytest.approx(300 * MS, abs=10 * MS)
        assert pressed.detail == "5"
    assert line.detail.keys() == {"warnings"}, "it has said nothing"
    assert line.detail["warnings"] == [
        f"<Play>: {agent.url}/sounds/b.wav answered 404",
        "<Play>: busyhour fetches audio only from this machine: http://[::1/",
    ]


async def test_a_redirect_is_followed_relative_to_its_document() -> None:
    agent = DocumentAgent()
    agent.documents["/api/twilio/next"] = [response(CONNECT)]
    async with calling(agent, '<Redirect method="GET">next?a=b</Redirect>'):
        assert (await agent.told("/api/twilio/next"))[0]["a"] == "b"
    method, url, *_ = agent.requests[1]
    assert method == "GET"
    assert "CallSid=CA" in url


async def test_fifty_calls_at_once_each_get_their_own_line() -> None:
    async def talk(agent: DocumentAgent, ws: web.WebSocketResponse) -> None:
        sid = (await agent.hears(ws, "start"))["streamSid"]
        await ws.send_json({"event": "media", "streamSid": sid, "media": {"payload": payload(tone(100))}})
        await ws.send_json({"event": "mark", "streamSid": sid, "mark": {"name": sid}})
        assert (await agent.hears(ws, "mark"))["mark"]["name"] == sid

    agent, twilio = DocumentAgent(talk), Twilio()
    agent.documents["/api/twilio/voice"] = [response(CONNECT)]
    async with serving(agent, twilio) as target:

        async def one(number: int) -> str:
            async with twilio.dial(target, CallSetup(id=f"steady/{number}")) as line:
                await next_of(line, HeardKind.ONSET)
                return (await next_of(line, HeardKind.ENDED)).detail

        assert await asyncio.gather(*(one(number) for number in range(50))) == ["hung up"] * 50
    assert len({fields["CallSid"] for _, fields in agent.asked}) == 50


async def test_the_same_seed_has_the_same_names() -> None:
    names = []
    for seed in (1, 1, 2):
        agent, twilio = DocumentAgent(), Twilio(seed=seed)
        async with calling(agent, CONNECT, carrier=twilio):
            names.append((twilio.account_sid, twilio.auth_token, agent.asked[0][1]["CallSid"]))
    assert names[0] == names[1]
    assert not set(names[0]) & set(names[2])


# ---------------------------------------------------------------- other parties


async def test_a_dialled_number_takes_the_caller_over() -> None:
    async with calling(DocumentAgent(closing), CONNECT, "<Dial>+15550101</Dial>") as line:
        assert await ended(line) == "transferred"
    assert any("connected with +15550101" in text for _, text in line.trail)


@pytest.mark.parametrize(("how", "status"), [("busy", "busy"), ("no answer", "no-answer"), ("rejected", "failed")])
async def test_a_number_that_does_not_answer_leaves_the_caller_with_the_agent(how: str, status: str) -> None:
    agent = DocumentAgent()
    agent.documents["/dialled"] = [response(CONNECT)]
    twilio = Twilio(transfer=how, transfer_after_ms=1)  # type: ignore[arg-type]  # one of the three
    async with calling(agent, '<Dial action="/dialled">+15550101</Dial>', carrier=twilio):
        assert (await agent.told("/dialled"))[0]["DialCallStatus"] == status
    async with calling(DocumentAgent(), "<Dial>+15550101</Dial>", CONNECT, carrier=twilio) as line:
        assert line.opened_ns > 0


# ---------------------------------------------------------------- keys that are gathered


@pytest.mark.parametrize("carrier", [Twilio, TeXML])
async def test_nobody_presses_a_key_and_the_document_goes_on(carrier: type[Twilio | TeXML]) -> None:
    agent = DocumentAgent()
    verbs = ('<Gather action="/pin" timeout="0.1"><Say>Your number.</Say></Gather>', "<Say>Good bye.</Say>")
    async with calling(agent, *verbs, carrier=carrier()) as line:
        await next_of(line, HeardKind.ONSET)
        assert await ended(line) == "hung up"
    assert line.detail["carrier_said"] == ["Your number.", "Good bye."]
    assert [path for path, _ in agent.asked] == [VOICE[carrier]]


@pytest.mark.parametrize("carrier", [Twilio, TeXML])
@pytest.mark.parametrize(
    ("attributes", "pressed", "digits"),
    [('finishOnKey="#"', "42#", "42"), ('numDigits="2"', "123", "12"), ('finishOnKey="" timeout="0.3"', "1#", "1#")],
)
async def test_the_keys_of_the_caller_end_the_prompt_and_are_what_the_next_document_is_asked_with(
    attributes: str, pressed: str, digits: str, carrier: type[Twilio | TeXML]
) -> None:
    agent = DocumentAgent()
    agent.documents["/pin"] = [response(CONNECT)]
    verb = f'<Gather action="/pin" {attributes}><Say loop="0">Your number.</Say></Gather>'
    async with calling(agent, verb, "<Say>Nobody.</Say>", carrier=carrier()) as line:
        await next_of(line, HeardKind.ONSET)
        await line.press(pressed)
        assert (await agent.told("/pin"))[0]["Digits"] == digits
        await agent.shown("media")
    assert line.detail["carrier_said"] == ["Your number."]
    assert any(text == f"gathered {digits}" for _, text in line.trail)


async def test_a_gather_without_an_action_asks_its_own_document_again_at_twilio() -> None:
    agent = DocumentAgent()
    agent.documents[VOICE[Twilio]] = [response('<Gather timeout="5"/>'), response(CONNECT)]
    async with calling(agent) as line:
        await line.press("7#")
        assert (await agent.told(VOICE[Twilio], 2))[1]["Digits"] == "7"
        await agent.shown("media")
    agent = DocumentAgent()
    agent.documents["/pin"] = [response(CONNECT)]
    async with calling(agent, '<Gather action="/pin" actionOnEmptyResult="true" timeout="0.1"/>'):
        assert (await agent.told("/pin"))[0]["Digits"] == ""
    agent = DocumentAgent()
    async with calling(agent, '<Gather timeout="5"/>', "<Hangup/>", carrier=TeXML()) as line:
        await line.press("7#")
        assert await ended(line) == "hung up"
    assert len(agent.asked) == 1


# ---------------------------------------------------------------- what the twin cannot


async def test_a_call_in_which_the_twin_is_at_its_end_ends_with_that() -> None:
    async with calling(DocumentAgent(), "<Say>One moment.</Say>", "<Enqueue>support</Enqueue>") as line:
        assert (await ended(line)).startswith("twin cannot: busyhour's twin does not carry out <Enqueue>")


async def test_what_the_twin_cannot_is_no_failure_that_the_fallback_is_asked_for() -> None:
    agent = DocumentAgent()
    agent.documents["/fallback"] = [response(CONNECT)]
    failed = await failure("<Record/>", agent=agent, carrier=Twilio(fallback_path="/fallback"))
    assert failed.reason == "twin cannot"
    assert [path for path, _ in agent.asked] == [VOICE[Twilio]]


async def test_what_the_twin_cannot_does_no_harm_where_it_is_not_reached() -> None:
    async with calling(DocumentAgent(), CONNECT, "<Record/>") as line:
        await line.say(HELLO)
        await line.hang_up()
        assert await ended(line) == "hung up"


# ---------------------------------------------------------------- calls that are not established


async def test_a_dead_target_leaves_the_webhook_unanswered() -> None:
    twilio = Twilio()
    async with twilio.running({}):
        with pytest.raises(CallFailed, match=r"webhook unanswered.*127\.0\.0\.1:9/api/twilio/voice") as failed:
            async with twilio.dial(Endpoint("http://127.0.0.1:9"), SETUP):
                pass
    assert failed.value.reason == "webhook unanswered"


async def test_a_refused_webhook_fails_the_call_at_once() -> None:
    agent = DocumentAgent()
    agent.documents["/api/twilio/voice"] = [web.Response(status=500, text="boom")]
    failed = await failure(agent=agent)
    assert failed.reason == "webhook refused"
    assert "500 boom" in failed.detail
    assert len(agent.asked) == 1


async def test_a_webhook_that_hangs_is_unanswered() -> None:
    for carrier, setup, words in (
        (Twilio(webhook_path="/hold", webhook_timeout_seconds=0.1), {}, "no answer in time"),
        (Twilio(webhook_path="/hold"), {"answer_within_ns": 200 * MS}, "no answer within 0.2 s"),
    ):
        agent = DocumentAgent()
        failed = await failure(agent=agent, carrier=carrier, **setup)
        agent.held.set()
        assert failed.reason == "webhook unanswered"
        assert words in failed.detail


@pytest.mark.parametrize(
    ("document", "reason", "words"),
    [
        ("Hello", "protocol error", "error 12100 (Document parse failure): the document is no XML"),
        (response("<Shout/>"), "protocol error", "<Shout> is no verb of TwiML"),
        (
            response("<Record/>", CONNECT),
            "twin cannot",
            "busyhour's twin does not carry out <Record>, which is no fault",
        ),
        (response('<Gather input="speech"/>'), "twin cannot", "which needs a recogniser"),
        (response(CONNECT.replace("/>", ' track="both_tracks"/>')), "protocol error", "inbound track only"),
        (response(), "no media", "it has no <Connect><Stream>"),
        (response("<Pause/>"), "no media", "it has no <Connect><Stream>"),
        (response("<Hangup/>"), "no media", "hung up by the agent before any media"),
        (response("<Dial>+15550101</Dial>"), "no media", "transferred to +15550101 before any media"),
        (response("<Reject/>"), "rejected", "rejected"),
        (response('<Reject reason="busy"/>'), "rejected", "busy"),
        (response("<Redirect>/api/twilio/voice</Redirect>"), "protocol error", "more than 500 documents"),
        (response("<Redirect>https://agent.example.com/</Redirect>"), "webhook unanswered", "neither on this machine"),
        (response("<Redirect>http://[::1/</Redirect>"), "webhook unanswered", "http://[::1/ is neither on"),
        (response("<Redirect>http://127.0.0.1:99999/</Redirect>"), "webhook unanswered", "127.0.0.1:99999"),
        (response("<Redirect>mailto:a@b</Redirect>"), "webhook unanswered", "mailto:a@b"),
        (response('<Connect><Stream url="ws://[::1/"/></Connect>'), "protocol error", "needs a url"),
        (response('<Connect><Stream url="ws://127.0.0.1:99999/"/></Connect>'), "protocol error", "needs a url"),
        (web.Response(text=response(CONNECT)), "protocol error", "error 12300 (Invalid Content-Type)"),
        (response('<Connect><Stream url="ws://127.0.0.1:9/media"/></Connect>'), "media refused", "error 31920"),
        (response('<Connect><Stream url="wss://agent.example.com/"/></Connect>'), "media refused", "public URL"),
        (response(CONNECT.replace("{media}", "{media}/no")), "media refused", "status 101"),
    ],
    ids=lambda value: str(value)[-60:],
)
async def test_a_document_that_gives_no_conversation(document: str | web.Response, reason: str, words: str) -> None:
    agent = DocumentAgent()
    agent.documents["/api/twilio/voice"] = [document]
    failed = await failure(agent=agent)
    assert failed.reason == reason
    assert words in failed.detail


async def test_a_document_that_only_pauses_is_no_answer() -> None:
    failed = await failure('<Pause length="60"/>', CONNECT, answer_within_ns=SECOND // 5)
    assert (failed.reason, failed.detail) == ("no answer", "no verb that answers the call within 0.2 s")


async def test_a_stream_whose_handshake_hangs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("busyhour.carriers.media_stream.CONNECT_SECONDS", 0.6)

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(mute, "127.0.0.1", 0) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        twilio = Twilio(media_within_seconds=0.2)
        failed = await failure(f'<Connect><Stream url="{url}"/></Connect>', carrier=twilio)
    assert failed.reason == "media refused"
    assert "no answer to the WebSocket handshake in time" in failed.detail


async def test_the_fallback_url_is_asked_when_the_first_fails() -> None:
    for answer, code in ((web.Response(status=503), "11200"), ("no xml", "12100")):
        agent = DocumentAgent()
        agent.documents["/api/twilio/voice"] = [answer]
        agent.documents["/fallback"] = [response(CONNECT)]
        async with calling(agent, carrier=Twilio(fallback_path="/fallback")) as line:
            assert line.opened_ns > 0
        asked = (await agent.told("/fallback"))[0]
        assert (asked["ErrorCode"], asked["ErrorUrl"]) == (code, f"{agent.url}/api/twilio/voice")
    agent = DocumentAgent()
    agent.documents["/api/twilio/voice"] = agent.documents["/fallback"] = ["no xml"]
    failed = await failure(agent=agent, carrier=Twilio(fallback_path="/fallback"))
    assert "/fallback" in failed.detail


# ---------------------------------------------------------------- a carrier like others


async def test_a_carrier_that_does_not_run_cannot_dial() -> None:
    with pytest.raises(ServiceError, match="twilio is not running"):
        async with Twilio().dial(Endpoint("http://127.0.0.1:9"), SETUP):
            pass


async def test_a_port_that_is_taken_is_named() -> None:
    async with Twilio().running({}) as endpoint:
        port = int(endpoint.url.rpartition(":")[2])
        with pytest.raises(ServiceError, match=str(port)):
            async with Twilio(port=port).running({}):
                pass


def test_it_is_a_carrier_that_measures_itself() -> None:
    carrier: Carrier = Twilio()
    assert isinstance(carrier, Metered)
    assert carrier.drain(0) == []


async def test_an_error_inside_comes_out_as_it_is_and_nothing_is_left_behind() -> None:
    with pytest.raises(KeyError, match="mine"):
        async with calling(DocumentAgent(), CONNECT):
            raise KeyError("mine")
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []
