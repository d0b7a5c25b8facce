"""TwiML and TeXML, read: what documents say, and what is said of those that say nothing."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twilio.twiml.voice_response import Connect, Dial, VoiceResponse  # type: ignore[import-untyped]  # has no types

from busyhour.carriers.documents.verbs import (
    BadDocument,
    Beyond,
    Gather,
    Grammar,
    Hangup,
    Pause,
    Play,
    Redirect,
    Reject,
    Say,
    StopStream,
    Stream,
    read,
)
from busyhour.carriers.documents.verbs import (
    Dial as DialVerb,
)
from busyhour.carriers.sounds import ENDLESS

GRAMMAR = Grammar(name="TwiML", elsewhere=frozenset({"Record"}), gather_elsewhere=frozenset({"validDigits"}))


def test_every_verb_that_the_vendors_builder_writes_is_read() -> None:
    said = VoiceResponse()
    said.say("Hello, and welcome.", voice="Polly.Joanna", loop=2)
    said.play("greeting.wav", loop=0)
    said.play(digits="1w2")
    said.pause(length=3)
    start = said.start()
    start.stream(url="wss://agent.example/fork", name="fork", track="both_tracks")
    said.stop().stream(name="fork")
    connect = Connect(action="/after")
    stream = connect.stream(url="wss://agent.example/media", status_callback="/stream", status_callback_method="GET")
    stream.parameter(name="who", value="me & <you>")
    said.append(connect)
    dial = Dial(action="/dialled", method="GET")
    dial.number("+15550101")
    said.append(dial)
    said.dial("415-123-4567")
    said.redirect("/next", method="GET")
    said.reject(reason="busy")
    said.hangup()
    fork = {"url": "wss://agent.example/fork", "name": "fork", "track": "both_tracks"}
    media = {
        "url": "wss://agent.example/media",
        "statusCallback": "/stream",
        "statusCallbackMethod": "GET",
    }
    assert read(str(said), GRAMMAR) == [
        Say("Hello, and welcome.", 2),
        Play("greeting.wav", ENDLESS, ""),
        Play("", 1, "1w2"),
        Pause(3),
        Stream(
            url="wss://agent.example/fork",
            name="fork",
            track="both_tracks",
            two_way=False,
            status_url="",
            status_method="POST",
            attributes=fork,
        ),
        StopStream("fork"),
        Stream(
            url="wss://agent.example/media",
            name="",
            track="inbound_track",
            two_way=True,
            status_url="/stream",
            status_method="GET",
            parameters={"who": "me & <you>"},
            attributes=media,
        ),
        Redirect("/after", "POST"),
        DialVerb("+15550101", "/dialled", "GET"),
        DialVerb("415-123-4567", "", "POST"),
        Redirect("/next", "GET"),
        Reject("busy"),
        Hangup(),
    ]


def test_comments_markup_of_speech_and_white_space_are_no_obstacle() -> None:
    text = """
    <?xml version="1.0" encoding="UTF-8"?>
    <!-- ours -->
    <Response>
        <!-- one --> <Say>Wait <break time="1s"/> a
        <emphasis>moment</emphasis>.</Say>
    </Response>"""
    assert read(text, GRAMMAR) == [Say("Wait a moment .".replace(" .", "."), 1)]
    assert read("<Response/>", GRAMMAR) == []


def test_a_gather_is_read_with_its_prompts() -> None:
    said = VoiceResponse()
    gather = said.gather(num_digits=4, timeout=3, finish_on_key="*", action="/pin", method="GET")
    gather.say("Your number, please.")
    gather.pause(length=2)
    said.gather(action_on_empty_result=True)
    assert read(str(said), GRAMMAR) == [
        Gather(
            prompts=[Say("Your number, please.", 1), Pause(2)],
            timeout_seconds=3,
            digits_max=4,
            finish_on_keys="*",
            action="/pin",
            method="GET",
            empty_too=False,
        ),
        Gather(
            prompts=[],
            timeout_seconds=5,
            digits_max=128,
            finish_on_keys="#",
            action="",
            method="POST",
            empty_too=True,
        ),
    ]
    silent = Grammar(name="TeXML", elsewhere=frozenset(), gather_asks_itself=False)
    (verb,) = read("<Response><Gather maxDigits='2' numDigits='3'/></Response>", silent)
    assert isinstance(verb, Gather)
    assert (verb.action, verb.digits_max) == (None, 2)


@pytest.mark.parametrize(
    ("verb", "what"),
    [
        ("<Record/>", "<Record>"),
        ("<Connect><Room>a</Room></Connect>", "<Connect><Room>"),
        ("<Start><Siprec/></Start>", "<Start><Siprec>"),
        ("<Dial><Conference>a</Conference></Dial>", "<Dial><Conference>"),
        ('<Gather input="dtmf speech"/>', "<Gather input='dtmf speech'>, which needs a recogniser"),
        ('<Gather validDigits="12"/>', "<Gather validDigits=...>"),
    ],
)
def test_what_the_twin_cannot_is_told_from_what_is_wrong(verb: str, what: str) -> None:
    assert read(f"<Response><Say>One moment.</Say>{verb}</Response>", GRAMMAR) == [Say("One moment.", 1), Beyond(what)]


BAD: list[tuple[str, str, str]] = [
    ("", "is no XML", "12100"),
    ("Hello", "is no XML", "12100"),
    ('{"ok": true}', '{"ok": true}', "12100"),
    ("<Response><Say>", "is no XML", "12100"),
    ("<Response>\x00</Response>", "is no XML", "12100"),
    ('<!DOCTYPE r [<!ENTITY a "b">]><Response>&a;</Response>', "has a DTD", "12100"),
    ("<html><body>404</body></html>", "root is <html>", "12100"),
    ("<response/>", "root is <response>", "12100"),
    ('<Response xmlns="urn:x"><Hangup/></Response>', "must be <Response>", "12100"),
    ("<Response>Hello</Response>", "text between the verbs", "12200"),
    ("<Response><Hangup/>bye</Response>", "text between the verbs", "12200"),
    ("<Response><Shout>Hey</Shout></Response>", "<Shout> is no verb of TwiML", "12200"),
    ("<Response><say>Hey</say></Response>", "<say> is no verb of TwiML", "12200"),
    ('<Response><Gather input="voice"/></Response>', "dtmf, speech or both", "12200"),
    ('<Response><Gather finishOnKey="x"/></Response>', "finishOnKey='x'", "13310"),
    ('<Response><Gather timeout="soon"/></Response>', "<Gather timeout='soon'>", "12200"),
    ('<Response><Gather numDigits="0"/></Response>', "a number from 1 to 128", "12200"),
    ("<Response><Gather><Dial>1</Dial></Gather></Response>", "there is a <Dial>", "12200"),
    ("<Response><Connect/></Response>", "<Connect> is empty", "12200"),
    ("<Response><Connect><Stream/></Connect></Response>", "needs a url", "12200"),
    ('<Response><Connect><Stream url="http://a/"/></Connect></Response>', "ws:// or wss://", "12200"),
    ('<Response><Connect><Stream url="ws://a/" track="x"/></Connect></Response>', "<Stream track='x'>", "12200"),
    ('<Response><Start><Stream url="ws://a/"><Header/></Stream></Start></Response>', "there is a <Header>", "12200"),
    (
        f'<Response><Start><Stream url="ws://a/"><Parameter name="a" value="{"x" * 500}"/></Stream></Start></Response>',
        "more than 500 characters",
        "12200",
    ),
    ('<Response><Say loop="-1">a</Say></Response>', "<Say loop='-1'>", "12200"),
    ('<Response><Say loop="1e9">a</Say></Response>', "a number from 0 to 1000", "12200"),
    (f"<Response><Say>{'x' * 4097}</Say></Response>", "4097 characters; the limit is 4096", "12200"),
    ('<Response><Pause length="long"/></Response>', "<Pause length='long'>", "12200"),
    ("<Response><Play/></Response>", "<Play> needs", "12200"),
    ('<Response><Play digits="x"/></Response>', "digits are 0-9", "12200"),
    ("<Response><Dial/></Response>", "<Dial> needs a number", "13223"),
    ('<Response><Reject reason="no"/></Response>', "rejected, busy", "12200"),
    ('<Response><Redirect method="PUT">/a</Redirect></Response>', "POST, GET", "12200"),
    (f"<Response>{'<Hangup/>' * 1001}</Response>", "more than 1000 verbs", "12200"),
    (f"<Response><Say>{'x' * 70_000}</Say></Response>", "longer than 64 KB", "11750"),
    ("<a>" * 15_000, "is no XML", "12100"),
]


@pytest.mark.parametrize(("document", "detail", "code"), BAD, ids=lambda value: str(value)[:40])
def test_what_cannot_be_carried_out_is_said(document: str, detail: str, code: str) -> None:
    with pytest.raises(BadDocument) as bad:
        read(document, GRAMMAR)
    assert detail in str(bad.value)
    assert bad.value.code == code


@given(st.text(max_size=200) | st.text("<>/ResponseSayConnectStream =\"'ws:", max_size=200).map("<Response>{}".format))
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(BadDocument):
        assert isinstance(read(text, GRAMMAR), list)
