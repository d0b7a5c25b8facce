"""Reading voice requests, cutting text and encoding audio: the pure part of the Cartesia twin."""

from __future__ import annotations

import io
import json
import wave
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from busyhour.emulators.cartesia.request import Refused, read_event, wav_header, word_timestamps
from busyhour.emulators.synthesis import Sound, audio_of
from busyhour.media.utterances import sentences, spoken

MESSAGE: dict[str, Any] = {
    "context_id": "c",
    "model_id": "sonic-3",
    "transcript": "Hello.",
    "voice": "v",
    "output_format": {"container": "raw", "encoding": "pcm_s16le", "sample_rate": 8000},
}


@given(
    st.dictionaries(
        st.sampled_from(["context_id", "transcript", "voice", "output_format", "continue", "cancel", "model_id"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
        ),
    )
)
def test_no_json_breaks_the_reading(change: dict[str, Any]) -> None:
    try:
        event = read_event(json.dumps(MESSAGE | change))
    except Refused:
        return
    assert event.context_id


def test_a_wav_header_is_understood_by_the_standard_library() -> None:
    sound = Sound("pcm_s16le", 22050)
    octets = audio_of("One moment please.", sound)
    with wave.open(io.BytesIO(wav_header(sound, len(octets)) + octets)) as read:
        assert (read.getnchannels(), read.getsampwidth(), read.getframerate()) == (1, 2, 22050)
        assert read.readframes(10**6) == octets == spoken("One moment please.", 22050).tobytes()


def test_the_words_of_a_recording_are_where_they_were_found() -> None:
    audio = sentences(8000)["hours.parking"]
    stamps = word_timestamps(audio.text, began_ms=1000, lasts_ms=5)
    expected = [round(1 + (word.began - audio.speech_began) / 8000, 3) for word in audio.words]
    assert stamps["start"] == expected
    assert stamps["words"] == audio.text.split()


def test_the_words_of_other_text_share_its_time() -> None:
    stamps = word_timestamps(" abc  defghij ", began_ms=500, lasts_ms=1200)
    assert stamps == {"words": ["abc", "defghij"], "start": [0.5, 0.9], "end": [0.8, 1.6]}
