"""The rule-based receptionist: every caller's sentence, whole dialogues, tools, and transcripts with holes."""

from __future__ import annotations

from importlib.resources import files
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busyhour.emulators.receptionist import Reply, Said, Tool, reply, sentences
from busyhour.model import JSON

CALLER = {
    row[0]: row[-1]
    for row in (
        line.split("\t")
        for line in files("busyhour").joinpath("media/data/caller.tsv").read_text(encoding="utf-8").splitlines()
    )
}

ANSWERS = {
    "hours.today": "hours.week",
    "hours.saturday": "hours.saturday",
    "hours.sunday": "hours.sunday",
    "hours.holiday": "hours.sunday",
    "hours.latest": "hours.week",
    "hours.parking": "hours.parking",
    "hours.address": "hours.address",
    "booking.appointment": "booking.day",
    "booking.cleaning": "booking.day",
    "booking.toothache": "booking.day",
    "booking.child": "booking.day",
    "booking.tuesday": "booking.offer",
    "booking.thursday": "booking.offer",
    "booking.earliest": "booking.offer",
    "booking.nine": "booking.name",
    "booking.half_past_two": "booking.name",
    "booking.name_anna": "booking.phone",
    "booking.name_john": "booking.phone",
    "booking.name_fiona": "booking.phone",
    "booking.phone": "booking.confirm",
    "booking.confirm": "anything_else",  # out of any booking
    "booking.cancel": "booking.cancelled anything_else",
    "booking.reschedule": "booking.move",
    "price.cleaning": "price.cleaning",
    "price.whitening": "price.whitening",
    "price.insurance": "price.insurance",
    "price.card": "price.card",
    "price.consultation": "price.consultation",
    "barge.stop": "listening",
    "barge.question": "interrupted",
    "barge.hold_on": "listening",
    "barge.never_mind": "anything_else",
    "barge.interrupt": "interrupted",
    "transfer.person": "transfer",
    "transfer.doctor": "transfer",
    "smalltalk.thanks": "welcome anything_else",
    "smalltalk.repeat": "help",  # nothing was said yet
    "goodbye.bye": "goodbye",
    "goodbye.thanks": "goodbye",
    "goodbye.nothing_else": "goodbye",
    "hostile.injection": "refuse.topic",
    "hostile.maintenance": "refuse.topic",
    "hostile.pirate": "refuse.topic",
    "hostile.husband": "refuse.private",
    "hostile.patients": "refuse.private",
    "hostile.refund": "refuse.topic",
    "hostile.abuse": "refuse.abuse",
    "hostile.gibberish": "repeat",
    "hostile.shout": "listening",
    "hostile.spanish": "refuse.language",
    "hostile.german": "refuse.language",
    "hostile.monologue": "hours.saturday",
}


def names(text: str) -> str:
    """The names of the sentences a text is made of, in order; fails if it is made of anything else."""
    found = sorted((text.index(sentence), name) for name, sentence in sentences().items() if sentence in text)
    assert " ".join(sentences()[name] for _, name in found) == text
    return " ".join(name for _, name in found)


def hears(*texts: str) -> list[Said]:
    """A conversation in which caller and receptionist took turns, the caller last."""
    said = [Said(role="system", text="You are the receptionist of a dental clinic.")]
    for index, text in enumerate(texts):
        said.append(Said(role="assistant" if index % 2 else "user", text=text))
    return said


def answer(*texts: str) -> str:
    return names(reply(hears(*texts)).text)


def test_every_sentence_of_the_caller_has_an_expected_answer() -> None:
    assert ANSWERS.keys() == CALLER.keys()


@pytest.mark.parametrize("name", ANSWERS)
def test_each_sentence_of_the_caller(name: str) -> None:
    assert answer(CALLER[name]) == ANSWERS[name]
    assert answer(CALLER[name].lower().rstrip(".?")) == ANSWERS[name]


DIALOGUES = {
    "a booking": """
        booking.appointment > booking.day
        booking.tuesday > booking.offer
        booking.nine > booking.name
        booking.name_anna > booking.phone
        booking.phone > booking.confirm
        booking.confirm > booking.done anything_else
        goodbye.nothing_else > goodbye""",
    "the earliest": """
        booking.toothache > booking.day
        booking.earliest > booking.offer
        booking.half_past_two > booking.name
        booking.name_fiona > booking.phone
        booking.phone > booking.confirm
        booking.confirm > booking.done anything_else""",
    "questions in the middle do not lose the thread": """
        booking.child > booking.day
        booking.thursday > booking.offer
        hours.parking > hours.parking
        booking.nine > booking.name
        smalltalk.repeat > booking.name
        booking.name_john > booking.phone
        barge.question > interrupted
        price.insurance > price.insurance
        booking.phone > booking.confirm""",
    "a move, for which name and number are known": """
        booking.reschedule > booking.move
        booking.thursday > booking.offer
        booking.half_past_two > booking.confirm
        booking.confirm > booking.done anything_else
        goodbye.bye > goodbye""",
    "a cancellation": """
        booking.cancel > booking.cancelled anything_else
        smalltalk.thanks > welcome anything_else
        goodbye.thanks > goodbye""",
    "an interruption": """
        price.cleaning > price.cleaning
        barge.stop > listening
        price.whitening > price.whitening
        smalltalk.repeat > price.whitening
        transfer.person > transfer""",
}


@pytest.mark.parametrize("turns", DIALOGUES.values(), ids=DIALOGUES)
def test_dialogue(turns: str) -> None:
    conversation: list[Said] = []
    for turn in turns.strip().splitlines():
        asks, expected = turn.strip().split(" > ")
        conversation.append(Said(role="user", text=CALLER[asks]))
        text = reply(conversation).text
        assert names(text) == expected, asks
        conversation.append(Said(role="assistant", text=text))


@pytest.mark.parametrize(
    ("stage", "text", "expected"),
    [
        ("booking.offer", "the first one please", "booking.name"),
        ("booking.offer", "yes", "booking.name"),
        ("booking.offer", "tuesday at nine", "booking.name"),
        ("booking.offer", "no", "booking.day"),
        ("booking.day", "in the morning", "booking.offer"),
        ("booking.name", "Anna Miller", "booking.phone"),
        ("booking.name", "It's John Parker", "booking.phone"),
        ("booking.phone", "five five five zero one four two", "booking.confirm"),
        ("booking.phone", "555-0142", "booking.confirm"),
        ("booking.confirm", "no that is wrong", "booking.day"),
        ("booking.done", "no", "goodbye"),
        ("anything_else", "yes", "listening"),
        ("anything_else", "no thank you", "goodbye"),
        ("help", "xyzzy plugh", "repeat"),
        ("help", "hello", "help"),
    ],
)
def test_what_is_understood_depends_on_what_was_asked(stage: str, text: str, expected: str) -> None:
    said = [Said(role="assistant", text=sentences()[stage]), Said(role="user", text=text)]
    assert names(reply(said).text) == expected


def test_a_question_cut_short_by_the_caller_was_asked() -> None:
    cut = " ".join(sentences()["booking.name"].split()[:3])
    said = [Said(role="assistant", text=cut), Said(role="user", text="Fiona Campbell")]
    assert names(reply(said).text) == "booking.phone"


@pytest.mark.parametrize("text", ["", "   ", "...", "?!"])
def test_an_empty_text_is_asked_again(text: str) -> None:
    assert names(reply([Said(role="user", text="Hello."), Said(role="user", text=text)]).text) == "repeat"


def test_nobody_has_spoken_yet() -> None:
    assert names(reply([Said(role="system", text="Greet the caller.")]).text) == "greeting help"


def test_an_utterance_in_pieces_is_understood_as_one() -> None:
    pieces = [Said(role="user", text="How"), Said(role="user", text="much is it")]
    assert names(reply(pieces).text) == "price.cleaning"


def test_transcripts_with_a_missing_word_are_mostly_understood() -> None:
    right = total = 0
    for name, text in CALLER.items():
        words = text.split()
        for missing in range(len(words)):
            right += answer(" ".join(words[:missing] + words[missing + 1 :])) == ANSWERS[name]
            total += 1
    assert right / total > 0.85


@given(st.lists(st.tuples(st.sampled_from(["user", "assistant", "system", "tool"]), st.text()), max_size=6))
def test_it_always_says_what_the_voice_has_recorded(messages: list[tuple[str, str]]) -> None:
    said = [Said(role=role, text=text, tool="book_appointment") for role, text in messages]
    assert names(reply(said).text)


def test_the_same_conversation_has_the_same_answer() -> None:
    random = Random(5)
    said = [Said(role="user", text=random.choice(list(CALLER.values()))) for _ in range(5)]
    assert reply(said) == reply(said)


# ---------------------------------------------------------------- tools


def function(called: str, *strings: str) -> Tool:
    schema: dict[str, JSON] = {"type": "object", "properties": {name: {"type": "string"} for name in strings}}
    return Tool(name=called, parameters=schema)


CHECK = function("check_availability", "day")
BOOK = function("book_appointment", "day", "time", "name", "phone_number")
TRANSFER = Tool(name="transfer_call")
CANCEL = function("cancel_appointment")


def test_a_fitting_tool_is_called_with_what_the_caller_said() -> None:
    called = reply(hears(CALLER["booking.tuesday"]), [BOOK, CHECK])
    assert called == Reply(tool="check_availability", arguments={"day": "tuesday"})


def test_the_booking_tool_gets_all_that_was_gathered() -> None:
    said = [
        Said(role="assistant" if index % 2 else "user", text=text)
        for index, text in enumerate(
            [
                CALLER["booking.tuesday"],
                sentences()["booking.offer"],
                CALLER["booking.half_past_two"],
                sentences()["booking.name"],
                CALLER["booking.name_anna"],
                sentences()["booking.phone"],
                CALLER["booking.phone"],
            ]
        )
    ]
    called = reply(said, [CHECK, BOOK])
    assert called.tool == "book_appointment"
    assert called.arguments == {
        "day": "tuesday",
        "time": "14:30",
        "name": "Anna Miller",
        "phone_number": "five five five zero one four two",
    }


@pytest.mark.parametrize(
    ("asks", "tool"), [("transfer.person", TRANSFER), ("transfer.doctor", TRANSFER), ("booking.cancel", CANCEL)]
)
def test_other_tools(asks: str, tool: Tool) -> None:
    assert reply(hears(CALLER[asks]), [CHECK, BOOK, tool]).tool == tool.name


def test_a_tool_that_does_not_fit_is_left_alone() -> None:
    assert names(reply(hears(CALLER["hours.today"]), [CHECK, BOOK, TRANSFER, CANCEL]).text) == "hours.week"
    assert names(reply(hears(CALLER["booking.phone"]), [CANCEL]).text) == "booking.confirm"


@pytest.mark.parametrize(
    ("tool", "result", "expected"),
    [
        ("check_availability", '{"slots": ["09:00", "14:30"]}', "booking.offer"),
        ("check_availability", '{"slots": []}', "booking.move"),
        ("check_availability", '{"available": false}', "booking.move"),
        ("check_availability", "[]", "booking.move"),
        ("book_appointment", '{"ok": true, "id": 7}', "booking.confirm"),
        ("book_appointment", '{"success": false}', "trouble"),
        ("book_appointment", '{"error": "database is down"}', "trouble"),
        ("book_appointment", "Error: timeout", "trouble"),
        ("transfer_call", "", "transfer"),
        ("cancel_appointment", "done", "booking.cancelled anything_else"),
        ("look_up_weather", "rain", "anything_else"),
    ],
)
def test_the_answer_comes_from_the_tools_result(tool: str, result: str, expected: str) -> None:
    said = [*hears(CALLER["booking.tuesday"]), Said(role="assistant"), Said(role="tool", text=result, tool=tool)]
    assert names(reply(said, [CHECK, BOOK]).text) == expected


def test_a_tool_can_be_demanded() -> None:
    said = hears(CALLER["hours.today"])
    assert reply(said, [CHECK, BOOK], force_tool="").tool == "check_availability"
    assert reply(said, [CHECK, BOOK], force_tool="book_appointment").tool == "book_appointment"


def test_required_properties_are_filled() -> None:
    schema: dict[str, JSON] = {
        "properties": {
            "reason": {"type": "string"},
            "minutes": {"type": "integer"},
            "urgent": {"type": "boolean"},
            "notes": {"type": "string"},
            "doctor": {"enum": ["miller", "jones"]},
        },
        "required": ["reason", "minutes", "urgent"],
    }
    called = reply(hears("Book a cleaning on Friday with Jones"), [Tool(name="availability", parameters=schema)])
    assert called.arguments == {
        "reason": "Book a cleaning on Friday with Jones",
        "minutes": 1,
        "urgent": True,
        "doctor": "jones",
    }
