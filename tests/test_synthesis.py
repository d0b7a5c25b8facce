"""What the voice twins share: cutting text, and where in the audio its words and characters are."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busyhour.emulators.synthesis import character_spans, cut, word_spans
from busyhour.media.utterances import sentences


@given(st.text(max_size=1500), st.booleans())
def test_cutting_loses_nothing(text: str, whole: bool) -> None:
    pieces, rest = cut(text, whole=whole)
    assert "".join(pieces) + rest == text
    assert all(0 < len(piece) <= 300 for piece in pieces)
    assert len(rest) <= 300
    assert not (whole and rest)


@pytest.mark.parametrize(
    ("text", "pieces", "rest"),
    [
        ("One. Two", ["One. "], "Two"),
        ("One.", ["One."], ""),
        ('He said "Go!" Then', ['He said "Go!" '], "Then"),
        ("It costs 3.50 dollars", [], "It costs 3.50 dollars"),
        ("", [], ""),
    ],
)
def test_sentences(text: str, pieces: list[str], rest: str) -> None:
    assert cut(text, whole=False) == (pieces, rest)


@given(st.text(max_size=200), st.floats(0, 1e5))
def test_every_character_has_its_place_in_order(text: str, lasts_ms: float) -> None:
    spans = character_spans(text, lasts_ms)
    assert len(spans) == len(text)
    assert all(began <= ended + 1e-6 for began, ended in spans)
    assert all(before[1] <= after[0] + 1e-6 for before, after in pairwise(spans))


def test_the_characters_of_a_recording_are_where_its_words_are() -> None:
    audio = sentences(8000)["hours.parking"]
    words = word_spans(audio.text, 5)
    spans = character_spans(audio.text + " ", 5)
    assert spans[0][0] == words[0][0]
    assert spans[audio.text.index("free")][0] == pytest.approx(words[2][0])
    assert spans[-2][1] == pytest.approx(words[-1][1]) == pytest.approx(spans[-1][1])
