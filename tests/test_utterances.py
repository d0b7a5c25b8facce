import csv
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from busyhour.errors import PlanError, ServiceError
from busyhour.media import rendering
from busyhour.media.babble import babble
from busyhour.media.codec import codec
from busyhour.media.rendering import render, speech_bounds, write_wav
from busyhour.media.utterances import (
    DATA,
    from_wav,
    louder,
    rendered,
    repeated,
    sentences,
    spoken,
    utterance,
    utterances,
)
from busyhour.model import Audio

RATES = pytest.mark.parametrize("rate_hz", [8_000, 16_000, 24_000])
SHIPPED = [*utterances(8_000).values(), *sentences(8_000).values()]


def table(name: str) -> list[list[str]]:
    with (DATA / name).open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file, delimiter="\t"))


def power_dbfs(samples: np.ndarray) -> float:
    return float(10 * np.log10((samples.astype(float) ** 2).mean() / 32_768**2))


def test_all_that_the_tables_name_is_shipped() -> None:
    assert {name: audio.text for name, audio in utterances().items()} == {row[0]: row[2] for row in table("caller.tsv")}
    assert {name: audio.text for name, audio in sentences().items()} == {row[0]: row[1] for row in table("agent.tsv")}
    assert sum(path.stat().st_size for path in DATA.rglob("*")) < 8_000_000


@RATES
def test_speech_lies_exactly_where_the_indices_say(rate_hz: int) -> None:
    window = rate_hz // 400
    for audio in [*utterances(rate_hz).values(), *sentences(rate_hz).values()]:
        assert audio.rate_hz == rate_hz
        assert not audio.samples[: audio.speech_began].any(), audio.name
        assert not audio.samples[audio.speech_ended :].any(), audio.name
        began, ended = speech_bounds(audio.samples, rate_hz)
        assert abs(began - audio.speech_began) <= window, audio.name
        assert abs(ended - audio.speech_ended) <= window, audio.name
        assert len(audio.samples) % (rate_hz // 50) == 0
        assert audio.speech_began <= rate_hz * 0.03


def test_the_line_does_not_move_the_speech() -> None:
    for audio in SHIPPED:
        for law in (codec("PCMU"), codec("PCMA")):
            began, ended = speech_bounds(law.decode(law.encode(audio.samples)), 8_000)
            assert abs(began - audio.speech_began) <= 40, audio.name
            assert abs(ended - audio.speech_ended) <= 40, audio.name


@RATES
def test_words_are_those_of_the_text_in_order_inside_the_speech(rate_hz: int) -> None:
    for audio in [*utterances(rate_hz).values(), *sentences(rate_hz).values()]:
        assert [word.text for word in audio.words] == [word.strip(".,?!") for word in audio.text.split()]
        edges = [edge for word in audio.words for edge in (word.began, word.ended)]
        assert edges == sorted(edges), audio.name
        assert audio.speech_began <= edges[0], audio.name
        assert edges[-1] <= audio.speech_ended, audio.name
        assert min(word.ended - word.began for word in audio.words) > 0.02 * rate_hz, audio.name
        # They reach from end to end: nothing audible is outside a word.
        assert edges[0] - audio.speech_began < 0.05 * rate_hz, audio.name
        assert audio.speech_ended - edges[-1] < 0.05 * rate_hz, audio.name


def test_a_pause_lies_between_the_words_it_separates() -> None:
    audio = utterance("booking.phone")  # "... five five five, zero one ..."
    five, zero = audio.words[5:7]
    assert (five.text, zero.text) == ("five", "zero")
    pause = audio.samples[five.ended : zero.began]
    assert len(pause) > 0.1 * audio.rate_hz
    assert power_dbfs(pause) < power_dbfs(audio.samples) - 20


def test_audio_is_at_the_level_of_speech() -> None:
    for audio in SHIPPED:
        assert -24 < power_dbfs(audio.samples[audio.speech_began : audio.speech_ended]) < -16, audio.name


def test_callers_and_agent_never_share_audio() -> None:
    assert len({audio.samples.tobytes() for audio in SHIPPED}) == len(SHIPPED)


def test_audio_is_loaded_once_and_cannot_be_changed() -> None:
    audio = utterance("hours.today")
    assert utterance("hours.today") is audio
    assert utterances()["hours.today"] is audio
    with pytest.raises(ValueError, match="read-only"):
        audio.samples[0] = 1


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("booking.tuesdy", "did you mean booking.tuesday"),
        ("#", r"there are \d+, like hours.today, hours.saturday, .*: \S*caller.tsv has them all"),
    ],
)
def test_an_unknown_name_is_told_with_what_is_near(name: str, told: str) -> None:
    with pytest.raises(PlanError, match=told):
        utterance(name)


@RATES
def test_a_shipped_sentence_is_spoken_from_its_first_sample_to_its_last(rate_hz: int) -> None:
    greeting = sentences(rate_hz)["greeting"]
    speech = greeting.samples[greeting.speech_began : greeting.speech_ended]
    for text in (greeting.text, "thank you, for calling  RIVERSIDE dental"):
        assert np.array_equal(spoken(text, rate_hz), speech)


def test_sentences_in_a_row_are_spoken_with_a_pause_between() -> None:
    both = spoken("How can I help you today? One moment please.", 8_000)
    one, other = spoken("How can I help you today?", 8_000), spoken("One moment please.", 8_000)
    assert np.array_equal(both, np.concatenate([one, np.zeros(1_600, np.int16), other]))


@RATES
def test_any_other_text_is_babble_of_its_length_and_level(rate_hz: int) -> None:
    text = "The quick brown fox, 12 years old, jumps over the lazy dog"
    audio = spoken(text, rate_hz)
    assert 0.045 * len(text) < len(audio) / rate_hz < 0.075 * len(text)
    assert -25 < power_dbfs(audio) < -17
    assert np.abs(audio.astype(int)).max() < 32_767
    began, ended = speech_bounds(audio, rate_hz)
    assert began <= 0.005 * rate_hz
    assert len(audio) - ended <= 0.01 * rate_hz
    assert np.array_equal(audio, spoken(text, rate_hz))
    assert not np.array_equal(audio[: rate_hz // 10], babble("zebra", rate_hz)[: rate_hz // 10])


@pytest.mark.parametrize("text", ["", "  ", "...", "- ?!"])
def test_nothing_to_say_is_no_samples(text: str) -> None:
    assert len(spoken(text, 8_000)) == 0


def test_other_scripts_can_be_spoken_too() -> None:
    began, ended = speech_bounds(spoken("Добрый день", 8_000), 8_000)
    assert ended - began > 4_000


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 22_050, 44_100])
def test_a_recording_is_an_utterance(tmp_path: Path, rate_hz: int) -> None:
    tone = 8_000 * np.sin(2 * np.pi * 440 * np.arange(rate_hz) / rate_hz)
    samples = np.concatenate([np.zeros(rate_hz // 2), tone, np.zeros(rate_hz // 2)]).astype(np.int16)
    write_wav(tmp_path / "hello.wav", samples, rate_hz)
    audio = from_wav(tmp_path / "hello.wav", "Hello there, you!")
    assert (audio.name, audio.text, audio.rate_hz, len(audio.samples)) == (
        "hello",
        "Hello there, you!",
        rate_hz,
        len(samples),
    )
    assert audio.speech_began / rate_hz == pytest.approx(0.5, abs=0.003)
    assert audio.speech_ended / rate_hz == pytest.approx(1.5, abs=0.003)
    assert [word.text for word in audio.words] == ["Hello", "there", "you"]
    assert audio.words[0].began == audio.speech_began
    assert audio.words[-1].ended == audio.speech_ended


def test_what_is_no_recording_of_speech_is_refused_with_the_reason(tmp_path: Path) -> None:
    write_wav(tmp_path / "quiet.wav", np.zeros(8_000, np.int16), 8_000)
    (tmp_path / "text.wav").write_text("no audio")
    for name, reason in [("quiet", "-42 dBFS"), ("text", "cannot be read"), ("missing", "No such file")]:
        with pytest.raises(PlanError, match=reason):
            from_wav(tmp_path / f"{name}.wav", "hello")


def program(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def synthesisers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder where alone programs are looked for; the tests put theirs into it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setattr(
        rendering.shutil, "which", lambda name: str(folder / name) if (folder / name).exists() else None
    )
    return folder


@pytest.fixture
def speech_wav(tmp_path: Path) -> Path:
    audio = utterance("hours.today", 16_000)
    path = tmp_path / "speech.wav"
    write_wav(path, np.concatenate([np.zeros(3_200, np.int16), audio.samples]), 16_000)
    return path


def test_a_shipped_text_needs_no_synthesiser(synthesisers: Path, tmp_path: Path) -> None:
    assert rendered("what time are you open today", cache=tmp_path) is utterance("hours.today")


def test_without_a_synthesiser_the_error_says_what_to_install(synthesisers: Path, tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="install flite or espeak-ng"):
        rendered("Something new", cache=tmp_path)


def test_a_text_is_rendered_once_and_then_kept(synthesisers: Path, speech_wav: Path, tmp_path: Path) -> None:
    count = tmp_path / "count"
    program(
        synthesisers, "espeak-ng", f'echo once >> {count}\nwhile [ "$1" != -w ]; do shift; done\ncp {speech_wav} "$2"'
    )
    first, second = (rendered("Something new", cache=tmp_path / "cache") for _ in range(2))
    assert count.read_text() == "once\n"
    assert isinstance(first, Audio)
    assert np.array_equal(first.samples, second.samples)
    assert (first.text, first.rate_hz) == ("Something new", 8_000)
    assert speech_bounds(first.samples, 8_000) == (first.speech_began, first.speech_ended)
    assert [word.text for word in first.words] == ["Something", "new"]


def test_words_come_from_the_sounds_that_flite_prints(synthesisers: Path, speech_wav: Path) -> None:
    # The sentence: "a" is "ax" here, "ey" alone; a sound that is here only goes to the word before it; the pause in
    # the middle belongs to no word.
    program(
        synthesisers,
        "flite",
        f"""
        for last; do :; done
        case "$*" in
          *"-t a cat, sat "*)
            echo "pau:0.22 ax:0.4 k:0.5 ae:0.7 t:0.8 hh:0.85 pau:1.0 s:1.2 ae:1.5 t:1.8 pau:2.0 "
            cp {speech_wav} "$last";;
          *"-t a "*) echo "pau:0.2 ey:0.4 pau:0.6 ";;
          *"-t cat, "*) echo "pau:0.2 k:0.3 ae:0.4 t:0.5 pau:0.6 ";;
          *"-t sat "*) echo "pau:0.2 s:0.3 ae:0.4 t:0.5 pau:0.6 ";;
        esac""",
    )
    audio = render("test", "a cat, sat")
    seconds = [(word.text, word.began / 16_000, word.ended / 16_000) for word in audio.words]
    shift = seconds[0][1] - 0.22
    assert [word for word, _, _ in seconds] == ["a", "cat", "sat"]
    assert [round(began - shift, 2) for _, began, _ in seconds] == [0.22, 0.4, 1.0]
    assert [round(ended - shift, 2) for _, _, ended in seconds[:2]] == [0.4, 0.85]


def test_a_synthesiser_that_writes_nothing_is_an_error(synthesisers: Path, tmp_path: Path) -> None:
    program(synthesisers, "espeak-ng", "exit 0")
    with pytest.raises(ServiceError, match="espeak-ng wrote no audio"):
        rendered("Something new", cache=tmp_path)


def test_a_synthesiser_that_fails_is_an_error_with_its_last_words(synthesisers: Path, tmp_path: Path) -> None:
    program(synthesisers, "flite", "echo no such voice >&2; exit 3")
    with pytest.raises(ServiceError, match="failed with 3: no such voice"):
        rendered("Something new", voice="nobody", cache=tmp_path)


def test_louder_keeps_the_words_and_clips_like_a_microphone() -> None:
    quiet = utterance("hours.today")
    loud = louder(quiet, 6)
    assert power_dbfs(loud.samples) - power_dbfs(quiet.samples) == pytest.approx(6, abs=0.3)
    assert (loud.text, loud.speech_began, loud.words) == (quiet.text, quiet.speech_began, quiet.words)
    assert loud.name == "hours.today +6 dB"
    shouted = louder(quiet, 40).samples
    assert (shouted.min(), shouted.max()) == (-32768, 32767)
    assert power_dbfs(louder(quiet, -6).samples) < power_dbfs(quiet.samples)


def test_repeated_is_said_over_and_over_without_a_pause() -> None:
    once = utterance("hours.parking")
    thrice = repeated(once, 3)
    speech = once.samples[once.speech_began : once.speech_ended]
    assert thrice.speech_began == once.speech_began
    assert (thrice.samples[thrice.speech_began : thrice.speech_ended] == np.concatenate([speech] * 3)).all()
    assert len(thrice.samples) - thrice.speech_ended == len(once.samples) - once.speech_ended
    assert thrice.text == " ".join([once.text] * 3)
    assert [word.text for word in thrice.words] == [word.text for word in once.words] * 3
    assert all(a.ended <= b.began for a, b in pairwise(thrice.words))
    assert thrice.words[-1].ended <= thrice.speech_ended
    assert repeated(once, 1).samples.tobytes() == once.samples.tobytes()
    with pytest.raises(PlanError, match=r"hours.parking said 0 times"):
        repeated(once, 0)
