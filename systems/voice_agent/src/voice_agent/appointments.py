"""The practice's appointments: a book in memory, or the company's own HTTP API (COMPANY_API_URL)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import httpx

from voice_agent.pools import asked

SECONDS = 1.0  # for the company's API to answer

_MOST = 10_000
_REFUSALS = frozenset({400, 404, 409, 410, 422})
_TOLD_CHARACTERS = 200  # of the API's reason for a refusal
_DIGITS = {
    word: str(digit)
    for digit, words in enumerate(("zero oh o", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"))
    for word in words.split()
}


class Refused(Exception):
    """It cannot be done, and the caller may be told why."""


class Unavailable(Exception):
    """Nobody knows whether it was done: the company's API failed. The message is for the log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Appointment:
    """`day` and `time` as they were agreed on, `phone` in figures."""

    day: str
    time: str
    name: str
    phone: str


class Appointments(Protocol):
    """Raises Refused and Unavailable; what is returned is for the model to read."""

    async def book(self, appointment: Appointment) -> dict[str, Any]: ...

    async def cancel(self, name: str, phone: str, *, checked: bool = True) -> dict[str, Any]:
        """All of whoever has this name and this number; not `checked` is a defect."""
        ...


def figures(text: str) -> str:
    """A telephone number as the caller said it, in figures: "five five five, 01 42" is 5550142."""
    return "".join(
        _DIGITS.get(word, word if word.isdigit() else "") for word in re.findall(r"[a-z]+|[0-9]+", text.lower())
    )


class Book:
    """In memory, for all calls of this process. Whether a time is free it does not know: it takes every booking."""

    def __init__(self) -> None:
        self._appointments: dict[Appointment, None] = {}  # in the order in which they were made

    async def book(self, appointment: Appointment) -> dict[str, Any]:
        if len(self._appointments) >= _MOST:
            raise Refused("the book is full")
        self._appointments[appointment] = None
        return {"status": "booked", "day": appointment.day, "time": appointment.time}

    async def cancel(self, name: str, phone: str, *, checked: bool = True) -> dict[str, Any]:
        found = [one for one in self._appointments if _same(one.name, name) and one.phone == phone]
        if not found and not checked:
            found = [one for one in self._appointments if _same(one.name, name) or one.phone == phone]
        elif not found:
            raise Refused("there is no appointment of this name and telephone number")
        for one in found:
            del self._appointments[one]
        return {"status": "cancelled", "appointments": [{"day": one.day, "time": one.time} for one in found]}

    @property
    def appointments(self) -> Sequence[Appointment]:
        return list(self._appointments)


def _same(name: str, other: str) -> bool:
    """Whether two names differ in nothing but how they are written."""
    return re.findall(r"\w+", name.casefold()) == re.findall(r"\w+", other.casefold())


class Company:
    """The company's API: POST /appointments (JSON), DELETE /appointments?name=&phone=. It is asked once: whether a
    request that was not answered has been carried out only the company knows."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def book(self, appointment: Appointment) -> dict[str, Any]:
        told = {"day": appointment.day, "time": appointment.time, "name": appointment.name, "phone": appointment.phone}
        await self._ask("POST", json=told)
        return {"status": "booked", "day": appointment.day, "time": appointment.time}

    async def cancel(self, name: str, phone: str, *, checked: bool = True) -> dict[str, Any]:
        try:
            await self._ask("DELETE", params={"name": name, "phone": phone})
        except Refused:
            if checked:
                raise
        return {"status": "cancelled"}

    async def _ask(self, method: str, **told: Any) -> None:
        try:
            async with asyncio.timeout(SECONDS):
                response = await asked(self._client, method, "appointments", **told)
        except TimeoutError:
            raise Unavailable("timeout") from None
        except httpx.HTTPError as error:
            raise Unavailable(type(error).__name__) from None
        if response.status_code in _REFUSALS:
            raise Refused(_reason(response))
        if not response.is_success:
            raise Unavailable(f"HTTP {response.status_code}")


def _reason(response: httpx.Response) -> str:
    """In the words of the API, if it gives any."""
    try:
        told = response.json()
    except (ValueError, RecursionError):
        told = None
    said = (told.get("error") or told.get("detail")) if isinstance(told, dict) else None
    if isinstance(said, str) and said.strip():
        return said.strip()[:_TOLD_CHARACTERS]
    return "there is no such appointment" if response.status_code in (404, 410) else "the time is not to be had"
