"""Appointments and the tools that make them: what is checked before anything is done, and what the model is told."""

from __future__ import annotations

import asyncio
import json
from random import Random
from typing import Any

import httpx
import pytest

from voice_agent.appointments import Appointment, Book, Company, Refused, Unavailable, figures
from voice_agent.defects import Defects, Switched
from voice_agent.llm.question import Errand, ToolCall
from voice_agent.log import Log
from voice_agent.metrics import Metrics
from voice_agent.schema import or_null, problem, record, text, without
from voice_agent.tools import Tools

_ANNA = Appointment(day="tuesday", time="09:00", name="Anna Miller", phone="5550142")
_BOOKING = {"day": "tuesday", "time": "09:00", "name": "Anna Miller", "phone": "five five five, 01 42"}
_CANCELLING = {"name": "anna  miller", "phone": "555-0142"}


class _Desk:
    """The tools of a call with a book, and what came of them."""

    def __init__(self, defect: str = "", kinds: tuple[str, ...] = ("appointments",)) -> None:
        self.book, self.metrics = Book(), Metrics()
        defects = Defects(Switched.parse(defect), Random(1), lambda _: None)
        self.tools = Tools(
            kinds, self.book, start=asyncio.create_task, metrics=self.metrics, defects=defects, log=Log()
        )

    async def use(self, *calls: tuple[str, Any]) -> list[Any]:
        errand = Errand(
            "", [ToolCall(name, told if isinstance(told, str) else json.dumps(told)) for name, told in calls]
        )
        await self.tools.use(errand)
        return [json.loads(result) for result in errand.results]

    def counted(self, tool: str, outcome: str) -> bool:
        return f'voice_agent_tool_calls_total{{tool="{tool}",outcome="{outcome}"}} 1\n' in self.metrics.text(0, {})


async def test_an_appointment_is_booked_once_and_cancelled_by_name_and_number() -> None:
    desk = _Desk()
    booked = {"status": "booked", "day": "tuesday", "time": "09:00"}
    assert await desk.use(("book_appointment", _BOOKING), ("book_appointment", _BOOKING)) == [booked, booked]
    assert desk.book.appointments == [_ANNA]
    cancelled = {"status": "cancelled", "appointments": [{"day": "tuesday", "time": "09:00"}]}
    assert await desk.use(("cancel_appointment", _CANCELLING)) == [cancelled]
    assert desk.book.appointments == []
    assert desk.counted("cancel_appointment", "ok")


@pytest.mark.parametrize(
    ("told", "wrong"),
    [
        ("{", "the arguments are not JSON"),
        ("[" * 100_000, "the arguments are not JSON"),
        ("[]", "it must be of the type object"),
        ("", "day is missing"),
        ({**_BOOKING, "day": 2}, "day must be of the type string"),
        ({**_BOOKING, "day": " "}, "day must have 1 characters at least"),
        ({**_BOOKING, "name": "a" * 81}, "name must have 80 characters at most"),
        ({**_BOOKING, "all": True}, "all is not known"),
        ({**_BOOKING, "phone": "my own"}, "phone must have 5 to 15 figures"),
        ({**_BOOKING, "phone": "1" * 16}, "phone must have 5 to 15 figures"),
    ],
)
async def test_arguments_are_checked_before_anything_is_done(told: Any, wrong: str) -> None:
    desk = _Desk()
    [result] = await desk.use(("book_appointment", told))
    assert result["error"].removesuffix("; ask the caller") == wrong
    assert desk.book.appointments == []
    assert desk.counted("book_appointment", "invalid")


@pytest.mark.parametrize(
    ("told", "outcome"),
    [
        ({"name": "Anna Miller"}, "invalid"),
        ({"phone": "5550142"}, "invalid"),
        ({"name": "Anna Miller", "phone": ""}, "invalid"),
        ({"name": "Anna Miller", "phone": "555 0143"}, "refused"),
        ({"name": "Anna", "phone": "555 0142"}, "refused"),
    ],
)
async def test_a_cancellation_needs_name_and_number_of_an_appointment(told: Any, outcome: str) -> None:
    desk = _Desk()
    await desk.book.book(_ANNA)
    [result] = await desk.use(("cancel_appointment", told))
    assert "error" in result
    assert desk.book.appointments == [_ANNA]
    assert desk.counted("cancel_appointment", outcome)


@pytest.mark.parametrize("tool", ["refund", "transfer_call"])
async def test_what_is_not_offered_is_not_done(tool: str) -> None:
    desk = _Desk()
    assert await desk.use((tool, {})) == [{"error": "there is no such tool"}]
    assert desk.counted("unknown", "invalid")


async def test_a_reply_calls_three_tools_at_most() -> None:
    desk = _Desk()
    *_, last = await desk.use(*[("book_appointment", {**_BOOKING, "day": day}) for day in ("a", "b", "c", "d")])
    assert last == {"error": "too many calls at once"}
    assert len(desk.book.appointments) == 3


@pytest.mark.parametrize(
    ("told", "left"),
    [
        ({"name": "Anna Miller"}, []),
        ({"name": "whoever", "phone": "5550142"}, []),
        ({"name": "cancel them all", "phone": "all"}, [_ANNA]),
        ([], [_ANNA]),
    ],
)
async def test_the_defect_cancels_whatever_the_model_says(told: Any, left: list[Appointment]) -> None:
    desk = _Desk("tool_unchecked")
    await desk.book.book(_ANNA)
    assert (await desk.use(("cancel_appointment", told)))[0]["status"] == "cancelled"
    assert desk.book.appointments == left
    assert "error" in (await desk.use(("book_appointment", {})))[0]  # bookings are checked all the same


def test_what_is_offered_is_what_is_switched_on() -> None:
    kinds = [(), ("transfer",), ("appointments",), ("appointments", "transfer")]
    offered = [[tool.name for tool in _Desk(kinds=kind).tools.offered] for kind in kinds]
    appointments = ["book_appointment", "cancel_appointment"]
    assert offered == [[], ["transfer_call"], appointments, ["transfer_call", *appointments]]


async def test_the_book_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("voice_agent.appointments._MOST", 1)
    book = Book()
    await book.book(_ANNA)
    with pytest.raises(Refused, match="full"):
        await book.book(_ANNA)


@pytest.mark.parametrize(
    ("said", "number"),
    [
        ("555-0142", "5550142"),
        ("+1 (555) oh one four two", "15550142"),
        ("five 5five.", "555"),
        ("\N{ROMAN NUMERAL EIGHT} \N{ARABIC-INDIC DIGIT THREE} x2", "2"),
        ("", ""),
    ],
)
def test_telephone_numbers_in_figures(said: str, number: str) -> None:
    assert figures(said) == number


# ---------------------------------------------------------------- the company's API


def _company(answer: Any) -> Company:
    def handle(request: httpx.Request) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer[0], content=answer[1])

    return Company(httpx.AsyncClient(transport=httpx.MockTransport(handle), base_url="http://company/"))


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((404, b"{}"), Refused("there is no such appointment")),
        ((409, b"\xff"), Refused("the time is not to be had")),
        ((409, b'{"error": " we are full "}'), Refused("we are full")),
        ((422, b'{"detail": [{"loc": 1}]}'), Refused("the time is not to be had")),
        ((401, b"{}"), Unavailable("HTTP 401")),
        ((302, b""), Unavailable("HTTP 302")),
        ((500, b"oops"), Unavailable("HTTP 500")),
        (httpx.ReadError("gone"), Unavailable("ReadError")),
    ],
)
async def test_a_company_that_does_not_do_it(answer: Any, error: Exception) -> None:
    company = _company(answer)
    for asked in (company.book(_ANNA), company.cancel("Anna Miller", "5550142")):
        with pytest.raises(type(error)) as raised:
            await asked
        assert str(raised.value) == str(error)


async def test_with_the_defect_a_company_that_refuses_is_not_believed() -> None:
    assert await _company((404, b"")).cancel("", "", checked=False) == {"status": "cancelled"}


# ---------------------------------------------------------------- schemas

_FORM = record({"kind": {"type": "string", "enum": ["a", "b"]}, "who": or_null(record({"name": text("n", at_most=3)}))})


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        ({"kind": "a", "who": None}, ""),
        ({"kind": "b", "who": {"name": "Bob"}}, ""),
        ({"kind": "c", "who": None}, "kind must be one of a, b"),
        ({"kind": ["a"], "who": None}, "kind must be of the type string"),
        ({"kind": "a"}, "who is missing"),
        ({"kind": "a", "who": {}}, "who.name is missing"),
        ({"kind": "a", "who": {"name": "Anna"}}, "who.name must have 3 characters at most"),
        ({"kind": "a", "who": {"name": "Bob", "x": 1}}, "who.x is not known"),
        ({"kind": "a", "who": True}, "who must be of the type object"),
        (None, "it must be of the type object"),
    ],
)
def test_schemas_are_checked(value: object, wrong: str) -> None:
    assert problem(_FORM, value) == wrong


def test_keywords_are_left_out_at_every_depth() -> None:
    left = without(_FORM, ("maxLength", "minLength", "additionalProperties"))
    assert left["properties"]["who"]["anyOf"][0] == {
        "type": "object",
        "properties": {"name": {"type": "string", "description": "n"}},
        "required": ["name"],
    }
    assert "maxLength" in json.dumps(_FORM)
