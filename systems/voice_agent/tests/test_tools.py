"""Tools in a conversation: the model calls, it is done, the model is told and speaks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from voice_agent.draft import FILLER
from voice_agent.llm.anthropic import Anthropic
from voice_agent.llm.gemini import Gemini
from voice_agent.llm.openai import OpenAI
from voice_agent.llm.question import Errand, Question, ToolCall
from voice_agent.settings import SYSTEM_PROMPT, Account
from voice_agent.speaking import TROUBLE
from voice_agent.tools import BOOK_APPOINTMENT

_TOLD = {"day": "tuesday", "time": "09:00", "name": "Anna Miller", "phone": "555 0142"}
_BOOK = ("book_appointment", json.dumps(_TOLD))
_CANCEL = ("cancel_appointment", json.dumps({"name": "Anna Miller", "phone": "555 0142"}))
_BOOKED = {"status": "booked", "day": "tuesday", "time": "09:00"}
_LATER = {"status": "cancelled", "appointments": [{"day": "tuesday", "time": "09:00"}]}
_ON = {"TOOLS": "appointments"}
_TWO = {**_ON, "ANTHROPIC_API_KEY": "k"}
_CALLS = "voice_agent_tool_calls_total"


def _calls(model: Any, *calls: tuple[str, str], reply: str) -> None:
    model.modes.append("call")
    model.calls.append(list(calls))
    model.replies.append(reply)


async def _ask(caller: Any, text: str = "Tuesday at nine.") -> None:
    await caller.say(text)
    await caller.next("mark")


def _rows(caplog: Any, event: str) -> list[dict[str, Any]]:
    return [dict(record.fields) for record in caplog.records if record.getMessage() == event]


# ---------------------------------------------------------------- what the vendors are asked


async def test_without_the_setting_the_requests_are_what_they_were(worlds: Callable[..., Any]) -> None:
    async with worlds() as plain, worlds(TRANSFER_NUMBER="+1") as transferring:
        for world in (plain, transferring):
            async with world.calling() as caller:
                await caller.greeted()
                await _ask(caller, "When?")
    messages = [
        {"role": "system", "content": SYSTEM_PROMPT},
        {"role": "assistant", "content": "Hello there."},
        {"role": "user", "content": "When?"},
    ]
    request = {"model": "gpt-4.1-mini", "messages": messages, "stream": True}
    request["stream_options"] = {"include_usage": True}
    about = "Put the caller through to a human, when they ask for one or need what you cannot do."
    function = {"name": "transfer_call", "description": about, "parameters": {"type": "object", "properties": {}}}
    assert plain.openai.requests == [request]
    assert transferring.openai.requests == [{**request, "tools": [{"type": "function", "function": function}]}]


async def _openai(worlds: Callable[..., Any]) -> None:
    async with worlds(**_ON) as world:
        await _booked_and_cancelled(world, world.openai)
    first, second, third = world.openai.requests
    assert first["parallel_tool_calls"] is False
    function = first["tools"][0]["function"]
    assert function["strict"] is True
    assert function["parameters"]["required"] == ["day", "time", "name", "phone"]
    assert "maxLength" not in json.dumps(function)
    functions = [{"name": name, "arguments": arguments} for name, arguments in (_BOOK, _CANCEL)]
    calls = [{"id": f"t{n}", "type": "function", "function": function} for n, function in enumerate(functions)]
    done = [
        {"role": "assistant", "content": "One second", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "t0", "content": json.dumps(_BOOKED)},
        {"role": "tool", "tool_call_id": "t1", "content": json.dumps(_LATER)},
    ]
    assert second["messages"][-3:] == done
    assert (
        third["messages"][-5:]
        == [
            {**done[0], "content": None},  # it is part of what was said afterwards
            *done[1:],
            {"role": "assistant", "content": "One second It is done."},
            {"role": "user", "content": "Thanks."},
        ]
    )


async def _anthropic(worlds: Callable[..., Any]) -> None:
    async with worlds(**_TWO, OPENAI_API_KEY="") as world:
        await _booked_and_cancelled(world, world.anthropic)
    first, second, third = world.anthropic.requests
    assert first["tools"][1]["input_schema"]["required"] == ["name", "phone"]
    called, told = second["messages"][-2:]
    assert called["role"] == "assistant"
    assert [block["type"] for block in called["content"]] == ["text", "tool_use", "tool_use"]
    assert called["content"][1] == {"type": "tool_use", "id": "t1", "name": "book_appointment", "input": _TOLD}
    assert told["role"] == "user"
    assert told["content"][1] == {"type": "tool_result", "tool_use_id": "t2", "content": json.dumps(_LATER)}
    assert [message["role"] for message in third["messages"][-4:]] == ["assistant", "user", "assistant", "user"]


async def _gemini(worlds: Callable[..., Any]) -> None:
    async with worlds(**_ON, OPENAI_API_KEY="", GEMINI_API_KEY="k") as world:
        await _booked_and_cancelled(world, world.gemini)
    first, second, third = world.gemini.requests
    declared = first["tools"][0]["functionDeclarations"][0]["parameters"]
    assert declared["required"] == ["day", "time", "name", "phone"]
    assert "additionalProperties" not in json.dumps(first)
    called, told = second["contents"][-2:]
    call = called["parts"][1]
    assert (called["role"], called["parts"][0]) == ("model", {"text": "One second"})
    assert call["functionCall"].pop("id") == told["parts"][0]["functionResponse"].pop("id")
    assert call == {"functionCall": {"name": "book_appointment", "args": _TOLD}, "thoughtSignature": "s"}
    assert told["parts"][0] == {"functionResponse": {"name": "book_appointment", "response": _BOOKED}}
    assert [content["role"] for content in third["contents"][-4:]] == ["model", "user", "model", "user"]


async def _booked_and_cancelled(world: Any, model: Any) -> None:
    """Two calls in one reply, and another turn."""
    model.preface = "One second"
    _calls(model, _BOOK, _CANCEL, reply="It is done.")
    async with world.calling() as caller:
        await caller.greeted()
        await _ask(caller)
        await _ask(caller, "Thanks.")
    assert world.cartesia.said[1:3] == ["One second", "It is done."]
    assert await world.metric(f'{_CALLS}{{tool="book_appointment",outcome="ok"}}') == 1
    assert await world.metric(f'{_CALLS}{{tool="cancel_appointment",outcome="ok"}}') == 1
    assert await world.metric("voice_agent_failovers_total") == 0


@pytest.mark.parametrize(
    ("dialect", "barred"),
    [
        (OpenAI, {"tool_choice": "none"}),
        (Anthropic, {"tool_choice": {"type": "none"}}),
        (Gemini, {"toolConfig": {"functionCallingConfig": {"mode": "NONE"}}}),
    ],
)
def test_what_is_left_of_a_long_call_is_a_conversation_still(dialect: Any, barred: dict[str, Any]) -> None:
    """The oldest messages are forgotten, so a call may come first; and what a model calls with may be anything."""
    errand = Errand("", [ToolCall("book_appointment", "[1", "t0")], ['{"error":"no"}'])
    question = Question(messages=[{"role": "system", "content": "s"}, errand], tools=[BOOK_APPOINTMENT], barred=True)
    _, asked = dialect(Account("k", "http://v", "m")).request(question)
    assert {key: asked[key] for key in barred} == barred
    first = next(message for message in asked.get("messages", asked.get("contents")) if message["role"] != "system")
    assert first["role"] == ("assistant" if dialect is OpenAI else "user")
    assert "[1" not in json.dumps(asked)


async def test_each_model_calls_and_is_told(together: Callable[..., Any]) -> None:
    await together(_openai, _anthropic, _gemini)


# ---------------------------------------------------------------- when it goes wrong


async def test_each_call_is_a_line_of_the_log(worlds: Callable[..., Any], caplog: Any) -> None:
    caplog.set_level("INFO", "voice_agent")
    async with worlds(**_ON, COMPANY="on") as world, world.calling("the call") as caller:
        await caller.greeted()
        _calls(world.openai, _BOOK, ("refund", '{"amount"'), reply="Done.")
        await _ask(caller)
        assert world.company.asked == [("book", {**_TOLD, "phone": "5550142"})]
        world.company.answer = (404, '{"error":"never seen"}')
        _calls(world.openai, _CANCEL, reply="No.")
        await _ask(caller)
        assert world.company.asked[1] == ("cancel", {"name": "Anna Miller", "phone": "5550142"})
        told = world.openai.requests[-1]["messages"][-1]["content"]
    assert json.loads(told) == {"error": "never seen"}
    rows = _rows(caplog, "tool call")
    assert [(row["call"], row["tool"], row["outcome"]) for row in rows] == [
        ("the call", "book_appointment", "ok"),
        ("the call", "refund", "invalid"),
        ("the call", "cancel_appointment", "refused"),
    ]
    assert (rows[0]["arguments"], json.loads(rows[0]["result"])) == (_BOOK[1], _BOOKED)
    assert rows[1]["arguments"] == '{"amount"'


async def _a_model_that_calls_for_ever_is_stopped(worlds: Callable[..., Any]) -> None:
    async with worlds(**_ON) as world, world.calling() as caller:
        await caller.greeted()
        world.openai.always, world.openai.preface = "call", "One second."
        world.openai.calls.extend([[_BOOK]] * 4)
        await _ask(caller)
        assert [request.get("tool_choice") for request in world.openai.requests] == [None, None, None, "none"]
        assert world.cartesia.said[1:] == [*["One second."] * 4, TROUBLE]


async def _what_one_model_has_done_another_tells(worlds: Callable[..., Any]) -> None:
    async with worlds(**_TWO) as world, world.calling() as caller:
        await caller.greeted()
        world.openai.modes.extend(["call", "500"])
        world.openai.calls.append([_BOOK])
        world.anthropic.replies.append("It is booked.")
        await _ask(caller)
        assert world.cartesia.said[1:] == ["It is booked."]
        result = {"type": "tool_result", "tool_use_id": "t0", "content": json.dumps(_BOOKED)}
        assert world.anthropic.requests[0]["messages"][-1] == {"role": "user", "content": [result]}
        assert await world.metric(f'{_CALLS}{{tool="book_appointment",outcome="ok"}}') == 1


async def _a_call_that_broke_off_is_not_carried_out(worlds: Callable[..., Any]) -> None:
    async with worlds(**_TWO, BETWEEN_TOKENS_SECONDS="0.2") as world, world.calling() as caller:
        await caller.greeted()
        world.openai.hold, world.openai.hold_after = asyncio.Event(), 2
        _calls(world.openai, _BOOK, reply="")
        world.anthropic.replies.append("I could not.")
        await _ask(caller)
        assert world.cartesia.said[-1] == "I could not."
        assert await world.metric(_CALLS) == 0
        world.openai.hold.set()


async def _a_call_without_end_is_not_carried_out(worlds: Callable[..., Any]) -> None:
    async with worlds(**_TWO) as world, world.calling() as caller:
        await caller.greeted()
        _calls(world.openai, ("book_appointment", "9" * 20_000), reply="")
        world.anthropic.replies.append("I could not.")
        await _ask(caller)
        assert world.cartesia.said[-1] == "I could not."
        assert await world.metric('voice_agent_vendor_errors_total{vendor="openai",reason="malformed"}') == 1
        assert await world.metric(_CALLS) == 0


async def _a_company_that_does_not_answer_is_not_waited_for(worlds: Callable[..., Any]) -> None:
    async with worlds(**_ON, COMPANY="on", DEAD_AIR_SECONDS="0.8") as world, world.calling() as caller:
        await caller.greeted()
        world.company.hold = asyncio.Event()
        _calls(world.openai, _BOOK, reply="I could not book that.")
        await _ask(caller)
        assert "error" in world.openai.requests[1]["messages"][-1]["content"]
        assert world.cartesia.said[1:] == [FILLER, "I could not book that."]
        assert await world.metric(f'{_CALLS}{{tool="book_appointment",outcome="failed"}}') == 1
        assert await world.metric('voice_agent_vendor_errors_total{vendor="company",reason="timeout"}') == 1
        world.company.hold.set()


async def _arguments_that_come_slowly_are_bridged(worlds: Callable[..., Any]) -> None:
    async with worlds(**_ON, DEAD_AIR_SECONDS="0.8") as world, world.calling() as caller:
        await caller.greeted()
        world.openai.hold, world.openai.hold_after = asyncio.Event(), 1
        _calls(world.openai, _BOOK, reply="It is booked.")
        await caller.say("Tuesday at nine.")
        await caller.next("media")
        assert world.cartesia.said[1:] == [FILLER]
        world.openai.hold.set()
        await caller.next("mark")
        assert world.cartesia.said[1:] == [FILLER, "It is booked."]


async def _what_was_begun_is_finished_though_the_caller_speaks(worlds: Callable[..., Any]) -> None:
    async with worlds(**_ON, COMPANY="on") as world, world.calling() as caller:
        await caller.greeted()
        world.company.hold = asyncio.Event()
        _calls(world.openai, _BOOK, reply="Goodbye.")
        await caller.say("Tuesday at nine.")
        await world.company.news.wait()
        await caller.say("And is there parking?")
        await world.counted("voice_agent_stt_seconds_total", 1)  # the caller was heard
        world.company.hold.set()
        await world.telnyx.commanded("hangup")
        assert world.company.done == len(world.company.asked) == 1
        *_, asked, called, told, more = world.openai.requests[1]["messages"]
        assert asked == {"role": "user", "content": "Tuesday at nine."}
        assert called["tool_calls"][0]["function"]["name"] == "book_appointment"
        assert json.loads(told["content"]) == _BOOKED
        assert more == {"role": "user", "content": "And is there parking?"}


async def _a_cough_does_not_leave_the_caller_without_an_answer(worlds: Callable[..., Any]) -> None:
    async with worlds(**_ON, COMPANY="on") as world, world.calling() as caller:
        await caller.greeted()
        world.openai.preface = "One second."
        world.company.hold = asyncio.Event()
        _calls(world.openai, _BOOK, reply="It is booked, goodbye.")
        await caller.say("Tuesday at nine.")
        await world.company.news.wait()
        await caller.next("media")
        await caller.say("")
        await world.counted("voice_agent_stt_seconds_total", 1)
        world.company.hold.set()
        await world.telnyx.commanded("hangup")
        assert len(world.company.asked) == 1
        called, told = world.openai.requests[1]["messages"][-2:]
        assert "One second.".startswith(called["content"] or "")
        assert json.loads(told["content"]) == _BOOKED
        assert world.cartesia.said[-1] == "It is booked, goodbye."


async def _an_appointment_outlives_its_call(worlds: Callable[..., Any]) -> None:
    async with worlds(**_ON, COMPANY="on") as world:
        world.company.hold = asyncio.Event()
        async with world.calling(quiet=False) as caller:
            await caller.greeted()
            _calls(world.openai, _BOOK, reply="Goodbye.")
            await caller.say("Tuesday at nine.")
            await world.company.news.wait()
        await world.quiet()
        world.company.hold.set()
        await world.counted(f'{_CALLS}{{tool="book_appointment",outcome="ok"}}')


async def _a_caller_is_put_through_after_what_else_was_called(worlds: Callable[..., Any]) -> None:
    async with worlds(TOOLS="transfer,appointments", TRANSFER_NUMBER="+15550123") as world, world.calling() as caller:
        await caller.greeted()
        _calls(world.openai, _BOOK, ("transfer_call", ""), reply="")
        await caller.say("Tuesday at nine, and then a human.")
        await world.telnyx.commanded("transfer")
        assert len(world.openai.requests) == 1
        assert await world.metric(f'{_CALLS}{{tool="book_appointment",outcome="ok"}}') == 1
        assert await world.metric(f'{_CALLS}{{tool="transfer_call",outcome="ok"}}') == 1
        await caller.hang_up()
        await world.quiet()


async def _a_call_that_is_complete_is_carried_out_though_the_stream_does_not_end(worlds: Callable[..., Any]) -> None:
    async with worlds(**_ON, BETWEEN_TOKENS_SECONDS="0.1") as world:
        world.openai.hold, world.openai.hold_after = asyncio.Event(), 4  # all but the usage and the end
        async with world.calling() as caller:
            await caller.greeted()
            _calls(world.openai, _BOOK, reply="You are booked.")
            await _ask(caller)
        world.openai.hold.set()
        assert world.cartesia.said[-1] == "You are booked."
        assert await world.metric(f'{_CALLS}{{tool="book_appointment",outcome="ok"}}') == 1
        assert len(world.openai.requests) == 2


async def _thanks_do_not_keep_a_caller_from_the_human(worlds: Callable[..., Any]) -> None:
    async with worlds(TRANSFER_NUMBER="+15550123") as world, world.calling() as caller:
        await caller.greeted()
        world.openai.modes.append("tool")
        await caller.say("A human please.")
        await caller.next("media")  # of "One moment please, I am putting you through."
        await caller.say("Thank you.")
        assert (await world.telnyx.commanded("transfer"))["to"] == "+15550123"
        await caller.hang_up()
        await world.quiet()
        assert len(world.openai.requests) == 1  # nobody answers a caller who has been put through
        assert await world.metric('voice_agent_calls_total{outcome="transferred"}') == 1


async def test_calls_of_tools(together: Callable[..., Any]) -> None:
    await together(
        _a_model_that_calls_for_ever_is_stopped,
        _what_one_model_has_done_another_tells,
        _a_call_that_broke_off_is_not_carried_out,
        _a_call_without_end_is_not_carried_out,
        _a_company_that_does_not_answer_is_not_waited_for,
        _arguments_that_come_slowly_are_bridged,
        _what_was_begun_is_finished_though_the_caller_speaks,
        _a_cough_does_not_leave_the_caller_without_an_answer,
        _an_appointment_outlives_its_call,
        _a_caller_is_put_through_after_what_else_was_called,
        _a_call_that_is_complete_is_carried_out_though_the_stream_does_not_end,
        _thanks_do_not_keep_a_caller_from_the_human,
    )
