"""The summary of a call: asked for in a form, checked, logged, and never waited for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

_TOLD = {
    "reason": "booking",
    "summary": "Anna Miller booked a cleaning.",
    "caller_name": "Anna Miller",
    "appointment": {"day": "tuesday", "time": "09:00"},
    "hostile": False,
}
_ON = {"SUMMARY": "on"}
_COUNTED = "voice_agent_summaries_total"


def _rows(caplog: Any, event: str) -> list[dict[str, Any]]:
    return [dict(record.fields) for record in caplog.records if record.getMessage() == event]


async def _converse(world: Any, model: Any, *summaries: str, call: str = "the call") -> None:
    """A call with one question, and what the model answers when it is asked to sum up."""
    model.replies.extend(["We are open until six.", *summaries])
    async with world.calling(call) as caller:
        await caller.greeted()
        await caller.say("When are you open?")
        await caller.next("mark")


async def _openai(worlds: Callable[..., Any]) -> None:
    async with worlds(**_ON) as world:
        await _converse(world, world.openai, json.dumps(_TOLD))
        await world.counted(f'{_COUNTED}{{outcome="ok"}}')
    asked = world.openai.requests[1]
    form = asked["response_format"]["json_schema"]
    assert (form["name"], form["strict"], form["schema"]["additionalProperties"]) == ("call_summary", True, False)
    assert form["schema"]["required"] == list(_TOLD)
    assert "maxLength" not in json.dumps(form)
    assert "tools" not in asked
    said = ["Agent: Hello there.", "Caller: When are you open?", "Agent: We are open until six."]
    assert asked["messages"][1] == {"role": "user", "content": "\n".join(said)}


async def _anthropic(worlds: Callable[..., Any]) -> None:
    async with worlds(**_ON, OPENAI_API_KEY="", ANTHROPIC_API_KEY="k") as world:
        await _converse(world, world.anthropic, json.dumps(_TOLD))
        await world.counted(f'{_COUNTED}{{outcome="ok"}}')
    asked = world.anthropic.requests[1]
    assert asked["tool_choice"] == {"type": "tool", "name": "call_summary"}
    assert [tool["name"] for tool in asked["tools"]] == ["call_summary"]
    assert asked["tools"][0]["input_schema"]["required"] == list(_TOLD)


async def _gemini(worlds: Callable[..., Any]) -> None:
    async with worlds(**_ON, OPENAI_API_KEY="", GEMINI_API_KEY="k") as world:
        await _converse(world, world.gemini, json.dumps(_TOLD))
        await world.counted(f'{_COUNTED}{{outcome="ok"}}')
    config = world.gemini.requests[1]["generationConfig"]
    assert config["responseMimeType"] == "application/json"
    assert config["responseSchema"]["properties"]["appointment"]["nullable"] is True
    assert "anyOf" not in json.dumps(config)


async def test_each_model_fills_in_the_form(together: Callable[..., Any], caplog: Any) -> None:
    caplog.set_level("INFO", "voice_agent")
    await together(_openai, _anthropic, _gemini)
    assert _rows(caplog, "call summary") == [{"call": "the call", **_TOLD}] * 3


async def test_without_the_setting_nobody_is_asked(world: Any) -> None:
    await _converse(world, world.openai)
    assert len(world.openai.requests) == 1
    assert await world.metric(_COUNTED) == 0


async def test_a_call_without_a_word_has_no_summary(worlds: Callable[..., Any]) -> None:
    async with worlds(**_ON, DEFECT="slow_greeting:60000") as world:
        async with world.calling():
            pass
        assert world.openai.requests == []
        assert await world.metric(_COUNTED) == 0


_UNFIT = {
    "Expecting value": "It was nice.",
    "reason must be one of booking, ": json.dumps({**_TOLD, "reason": "chat"}),
    "appointment.time is missing": json.dumps({**_TOLD, "appointment": {"day": "tuesday"}}),
    "hostile must be of the type boolean": json.dumps({**_TOLD, "hostile": "no"}),
    "secret is not known": json.dumps({**_TOLD, "secret": 7391}),
    "it is nested too deeply": "[" * 3000,
    "without end": "a" * 5000,
}


async def _unfit(worlds: Callable[..., Any], reason: str) -> None:
    async with worlds(**_ON) as world:
        await _converse(world, world.openai, _UNFIT[reason], call=reason)
        await world.counted(_COUNTED)
        assert await world.metric(f'{_COUNTED}{{outcome="ok"}}') == 0


async def test_what_does_not_fit_the_form_is_no_summary(together: Callable[..., Any], caplog: Any) -> None:
    caplog.set_level("INFO", "voice_agent")
    await together(*((_unfit, reason) for reason in _UNFIT))
    failed = {row["call"]: row["reason"] for row in _rows(caplog, "call summary failed")}
    assert failed.keys() == _UNFIT.keys()
    assert all(told.startswith(reason) for reason, told in failed.items())
    assert _rows(caplog, "call summary") == []


async def test_too_long_a_text_is_cut(worlds: Callable[..., Any], caplog: Any) -> None:
    caplog.set_level("INFO", "voice_agent")
    async with worlds(**_ON) as world:
        await _converse(world, world.openai, json.dumps({**_TOLD, "summary": "a" * 300}))
        await world.counted(f'{_COUNTED}{{outcome="ok"}}')
    assert _rows(caplog, "call summary")[0]["summary"] == "a" * 200


async def test_the_next_model_sums_up_what_the_first_could_not(worlds: Callable[..., Any], caplog: Any) -> None:
    caplog.set_level("INFO", "voice_agent")
    async with worlds(**_ON, GEMINI_API_KEY="k") as world:
        world.openai.modes.extend(["", "truncate"])
        world.gemini.replies.append(json.dumps(_TOLD))
        await _converse(world, world.openai, "{not all of it")
        await world.counted(f'{_COUNTED}{{outcome="ok"}}')
        assert "cut off" not in json.dumps(world.gemini.requests[0])
    assert _rows(caplog, "call summary")[0]["reason"] == "booking"


async def test_models_that_fail_are_told_of(worlds: Callable[..., Any], caplog: Any) -> None:
    async with worlds(**_ON) as world:
        world.openai.modes.extend(["", "401"])
        await _converse(world, world.openai)
        await world.counted(f'{_COUNTED}{{outcome="failed"}}')
    assert _rows(caplog, "call summary failed")[0]["reason"] == "HTTP 401"


async def test_nobody_waits_for_it(worlds: Callable[..., Any], caplog: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("voice_agent.summary.SECONDS", 0.3)
    caplog.set_level("INFO", "voice_agent")
    async with worlds(**_ON) as world:
        world.openai.modes.extend(["", "no token"])
        await _converse(world, world.openai)  # until no call is open any more
        await world.counted(_COUNTED)
    order = [record.getMessage() for record in caplog.records if record.getMessage().startswith("call ")]
    assert order == ["call begins", "call ended", "call summary failed"]
    assert _rows(caplog, "call summary failed") == [{"call": "the call", "reason": "not within 0.3 s"}]


async def test_a_shutdown_does_not_wait_for_it_either(worlds: Callable[..., Any], caplog: Any) -> None:
    async with worlds(**_ON) as world:
        before = asyncio.all_tasks()
        world.openai.modes.extend(["", "no token"])
        await _converse(world, world.openai)
        while len(world.openai.requests) < 2:
            world.openai.asked.clear()
            await world.openai.asked.wait()
        await world.app.state.switchboard.drain(60)
        assert _rows(caplog, "call summary failed") == [{"call": "the call", "reason": "shutting down"}]
        assert {repr(task) for task in asyncio.all_tasks() - before if "sum_up" in repr(task)} == set()


async def test_the_defect_takes_any_text(worlds: Callable[..., Any], caplog: Any) -> None:
    caplog.set_level("INFO", "voice_agent")
    async with worlds(**_ON, DEFECT="summary_free_text") as world:
        await _converse(world, world.openai, "The code is 7391.")
        await world.counted(f'{_COUNTED}{{outcome="ok"}}')
        assert "response_format" not in world.openai.requests[1]
    assert _rows(caplog, "call summary") == [{"call": "the call", "text": "The code is 7391. "}]
