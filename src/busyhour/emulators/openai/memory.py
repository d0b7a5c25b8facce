"""The responses the twin remembers, for previous_response_id: the latest ones, as many as fit."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from busyhour.emulators.language_model import Refused
from busyhour.emulators.receptionist import Said
from busyhour.model import JSON

RESPONSES_AT_MOST = 2000
CHARACTERS_AT_MOST = 32_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """A conversation up to a response, without its instructions; called: the calls that wait, call_id -> function."""

    conversation: Sequence[Said] = ()
    called: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Stored:
    body: Mapping[str, JSON]
    history: History
    characters: int


class Memory:
    """Responses by id, the oldest forgotten first."""

    def __init__(self) -> None:
        self._stored: OrderedDict[str, _Stored] = OrderedDict()
        self._characters = 0

    def keep(self, body: Mapping[str, JSON], history: History) -> None:
        """Remember a response by its id."""
        characters = 500 + sum(100 + len(said.text) for said in history.conversation)
        self._stored[str(body["id"])] = _Stored(body, history, characters)
        self._characters += characters
        while len(self._stored) > RESPONSES_AT_MOST or self._characters > CHARACTERS_AT_MOST:
            self._characters -= self._stored.popitem(last=False)[1].characters

    def history(self, name: str) -> History:
        """What went before. Raises Refused."""
        if name not in self._stored:
            raise Refused(
                f"Previous response with id '{name:.100}' not found.",
                param="previous_response_id",
                code="previous_response_not_found",
            )
        return self._stored[name].history

    def response(self, name: str) -> Mapping[str, JSON]:
        """The response as it was answered. Raises Refused."""
        if name not in self._stored:
            raise Refused(f"Response with id '{name:.100}' not found.", status=404)
        return self._stored[name].body

    def forget(self, name: str) -> None:
        """Raises Refused when there is nothing to forget."""
        self.response(name)
        self._characters -= self._stored.pop(name).characters
