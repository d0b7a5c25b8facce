"""The parts that need no socket."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from voice_agent import audio
from voice_agent.audio import Reorder
from voice_agent.sentences import Sentences
from voice_agent.settings import Settings, SettingsError
from voice_agent.speaking import said_goodbye
from voice_agent.turn_taking import Edge, TurnTaking
from voice_agent.vad import EnergyVad, SileroMissing, SileroVad, load_silero


def _mulaw(samples: np.ndarray) -> bytes:
    codes = audio.decode(bytes(range(256)))
    return bytes(int(np.abs(codes - sample).argmin()) for sample in samples)


def _tone(level_db: float) -> bytes:
    return _mulaw(10 ** (level_db / 20) * np.sqrt(2) * np.sin(2 * np.pi * 250 * np.arange(160) / 8000))


def _environment(**changes: str) -> dict[str, str]:
    needed = ("TELNYX_API_KEY", "OPENAI_API_KEY", "DEEPGRAM_API_KEY", "CARTESIA_API_KEY")
    return {**dict.fromkeys(needed, "k"), "TELNYX_VERIFY": "off", **changes}


def test_mulaw_is_g711() -> None:
    decoded = (audio.decode(bytes(range(256))) * 32768).astype(int)
    assert [decoded[code] for code in (0x00, 0x80, 0x7F, 0xFF, 0x01, 0x8F, 0xF0)] == [
        -32124, 32124, 0, 0, -31100, 16764, 120,
    ]  # fmt: skip
    assert (np.diff(decoded[:128]) > 0).all()


def test_levels() -> None:
    assert audio.level_dbfs(_tone(-20)) == pytest.approx(-20, abs=0.3)
    assert audio.level_dbfs(audio.SILENCE * 160) == audio.level_dbfs(b"") == -90


def test_frames_are_put_in_order() -> None:
    order = Reorder(depth=2)
    heard = [order.push(chunk, str(chunk).encode()) for chunk in (7, 8, 10, 9, 9, 8, 12, 13, 14, 11, 15)]
    assert heard == [[b"7"], [b"8"], [], [b"9", b"10"], [], [], [], [], [b"12", b"13", b"14"], [], [b"15"]]


def test_speech_stands_out_of_the_noise_and_noise_is_learned() -> None:
    vad = EnergyVad()
    assert not any(vad.is_speech(audio.SILENCE * 160) for _ in range(50))
    assert vad.is_speech(_tone(-30))
    noise = np.random.default_rng(1).normal(0, 10 ** (-35 / 20), (400, 160))
    noisy = [vad.is_speech(_mulaw(frame)) for frame in noise]
    assert not any(noisy[100:])  # within 2 s
    assert vad.is_speech(_tone(-20))


def test_noise_that_is_there_from_the_first_frame_is_no_speech() -> None:
    vad = EnergyVad()
    noise = np.random.default_rng(1).normal(0, 10 ** (-35 / 20), (100, 160))
    assert not any(vad.is_speech(_mulaw(frame)) for frame in noise)
    assert vad.is_speech(_tone(-20))


def test_an_utterance_has_two_edges() -> None:
    taking = TurnTaking(EnergyVad(), start_ms=120, stop_ms=200)
    tone, silence = _tone(-20), audio.SILENCE * 160

    def edges(*frames: bytes) -> list[tuple[int, Edge]]:
        told = [(number, taking.hear(frame)) for number, frame in enumerate(frames)]
        return [(number, edge) for number, edge in told if edge]

    assert edges(*[silence] * 20, *[tone] * 5, *[silence] * 20) == []  # a click of 100 ms
    assert edges(*[tone] * 10, *[silence] * 9, *[tone] * 5, *[silence] * 12) == [(5, Edge.STARTED), (33, Edge.ENDED)]
    assert taking.spoken_ms == 15 * 20


class _Session:
    """Takes the shape of Silero's model: says speech where the mean level is high, and checks what it is fed."""

    def run(self, output_names: None, input_feed: dict[str, Any]) -> list[Any]:
        assert output_names is None
        assert input_feed["input"].shape == (1, 288)
        assert input_feed["input"].dtype == input_feed["state"].dtype == np.float32
        assert input_feed["state"].shape == (2, 1, 128)
        assert int(input_feed["sr"]) == 8000
        loud = float(np.abs(input_feed["input"][0, 32:]).mean())
        return [np.array([[min(1.0, 10 * loud)]], dtype=np.float32), input_feed["state"] + 1]


def test_silero_is_fed_windows_with_context() -> None:
    vad = SileroVad(_Session())
    assert not any(vad.is_speech(audio.SILENCE * 160) for _ in range(16))
    assert [vad.is_speech(_tone(-10)) for _ in range(5)][-1]
    assert float(vad._state[0, 0, 0]) == 21 * 160 // 256


def test_silero_missing_says_what_to_do() -> None:
    with pytest.raises(SileroMissing, match=r"no file nowhere\.onnx; set SILERO_MODEL"):
        load_silero("nowhere.onnx")


class _OnnxRuntime(ModuleType):
    """As much of onnxruntime as loading needs; its "model file" holds the names of the inputs."""

    SessionOptions = SimpleNamespace
    Fail = InvalidGraph = NotImplemented = InvalidProtobuf = type("InvalidProtobuf", (Exception,), {})

    def InferenceSession(self, path: str, *, providers: list[str], sess_options: Any) -> Any:  # noqa: N802
        assert (sess_options.inter_op_num_threads, sess_options.intra_op_num_threads) == (1, 1)
        names = Path(path).read_text().split()
        if not names:
            raise self.InvalidProtobuf("Protobuf parsing failed.")
        return SimpleNamespace(get_inputs=lambda: [SimpleNamespace(name=name) for name in names])


@pytest.mark.parametrize(
    ("content", "because"),
    [
        ("", "cannot be read as a model: Protobuf parsing failed"),
        ("input h c", "is not Silero VAD v5 or v6: it wants c, h, input"),
        ("input state sr", ""),
    ],
)
def test_a_file_that_is_not_silero_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str, because: str
) -> None:
    fake = _OnnxRuntime("onnxruntime")
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    monkeypatch.setitem(sys.modules, "onnxruntime.capi", SimpleNamespace(onnxruntime_pybind11_state=fake))
    model = tmp_path / "silero_vad.onnx"
    model.write_text(content)
    if because:
        with pytest.raises(SileroMissing, match=because):
            load_silero(str(model))
    else:
        assert load_silero(str(model))


@pytest.mark.parametrize(
    ("pieces", "whole", "rest"),
    [
        (["We are op", "en. Any", "thing else?"], ["We are open."], "Anything else?"),
        (["It is 3.50 for Dr. Smith. ", "Yes!"], ["It is 3.50 for Dr. Smith."], "Yes!"),
        (['"Really?" ', "Yes. No. "], ['"Really?"', "Yes."], "No."),
        (["", " "], [], ""),
    ],
)
def test_sentences(pieces: list[str], whole: list[str], rest: str) -> None:
    cut = Sentences()
    assert [sentence for piece in pieces for sentence in cut.feed(piece)] == whole
    assert cut.rest() == rest
    assert cut.rest() == ""


def test_goodbye_counts_at_the_end() -> None:
    assert said_goodbye("Have a lovely day, goodbye.")
    assert said_goodbye("Good-bye!")
    assert not said_goodbye("I never say goodbye first.")


def test_settings_have_defaults() -> None:
    settings = Settings.from_environment(_environment(PORT="8123", CARTESIA_URL="https://tts.example/"))
    assert (settings.public_url, settings.stream_url) == ("http://127.0.0.1:8123", "ws://127.0.0.1:8123")
    assert settings.deepgram_url == "wss://api.deepgram.com"
    assert settings.cartesia_url == "wss://tts.example"
    assert settings.vad_stop_ms == 200
    assert settings.telnyx_public_key is None


def test_chains_are_of_the_vendors_that_have_keys_unless_told() -> None:
    alone = Settings.from_environment(_environment())
    assert (alone.llm_chain, alone.tts_chain) == (("openai",), ("cartesia",))
    assert alone.deepgram_hosts == [("deepgram", "wss://api.deepgram.com", "k")]
    every = {"GEMINI_API_KEY": "g", "ANTHROPIC_API_KEY": "a", "ELEVENLABS_API_KEY": "e"}
    settings = Settings.from_environment(_environment(**every, DEEPGRAM_FALLBACK_URL="http://127.0.0.1:9/"))
    assert settings.llm_chain == ("openai", "anthropic", "gemini")
    assert settings.tts_chain == ("cartesia", "elevenlabs")
    assert settings.deepgram_hosts[1] == ("deepgram_fallback", "ws://127.0.0.1:9", "k")
    told = Settings.from_environment(
        _environment(
            **every, LLM_CHAIN="Gemini,openai", GOOGLE_GEMINI_BASE_URL="http://127.0.0.1:8/", CARTESIA_API_KEY=""
        )
    )
    assert (told.llm_chain, told.tts_chain) == (("gemini", "openai"), ("elevenlabs",))
    assert told.gemini.base_url == "http://127.0.0.1:8"


def test_chains_that_cannot_be_are_told() -> None:
    wrong = {"LLM_CHAIN": "openai,anthropic,mistral,openai", "CARTESIA_API_KEY": "", "DEEPGRAM_FALLBACK_URL": "there"}
    with pytest.raises(SettingsError) as raised:
        Settings.from_environment(_environment(**wrong))
    assert raised.value.problems == [
        "ANTHROPIC_API_KEY is required, since LLM_CHAIN names anthropic",
        "LLM_CHAIN names 'mistral'; there are openai, anthropic, gemini",
        "LLM_CHAIN names a vendor twice: openai, anthropic, mistral, openai",
        "DEEPGRAM_FALLBACK_URL must be an http(s) or ws(s) URL, not 'there'",
        "CARTESIA_API_KEY is required (or ELEVENLABS_API_KEY)",
    ]


def test_tools_are_those_that_are_named_or_the_transfer_if_there_is_somebody() -> None:
    def tools(**changes: str) -> tuple[str, ...]:
        return Settings.from_environment(_environment(**changes)).tools

    assert tools() == ()
    assert tools(TRANSFER_NUMBER="+1") == ("transfer",)
    assert tools(TOOLS="Appointments", TRANSFER_NUMBER="+1") == ("appointments",)
    assert tools(TOOLS="transfer, appointments", TRANSFER_NUMBER="+1") == ("transfer", "appointments")
    with pytest.raises(SettingsError) as raised:
        tools(TOOLS="transfer,refund", COMPANY_API_URL="there", SUMMARY="perhaps")
    assert raised.value.problems == [
        "TOOLS names 'refund'; there are transfer, appointments",
        "TRANSFER_NUMBER is required, since TOOLS names transfer",
        "COMPANY_API_URL must be an http(s) or ws(s) URL, not 'there'",
        "SUMMARY must be one of on, off, not 'perhaps'",
    ]


def test_every_problem_of_the_settings_is_told() -> None:
    wrong = {
        "PORT": "x", "OPENAI_API_KEY": " ", "PUBLIC_URL": "example.org", "VAD": "ears", "VAD_STOP_MS": "0",
        "DEFECT": "lazy", "FIRST_TOKEN_SECONDS": "-1", "TELNYX_VERIFY": "on", "TELNYX_PUBLIC_KEY": "c2hvcnQ=",
    }  # fmt: skip
    with pytest.raises(SettingsError) as raised:
        Settings.from_environment(_environment(**wrong))
    problems = "\n".join(raised.value.problems)
    assert len(raised.value.problems) == 8
    for name in wrong.keys() - {"TELNYX_VERIFY"}:
        assert name in problems
    assert "OPENAI_API_KEY is required" in problems
    assert "PORT must be a whole number, not 'x'" in problems


def test_wrong_settings_exit_with_64() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "voice_agent"], env={"PATH": ""}, capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 64
    assert "voice_agent: TELNYX_PUBLIC_KEY is required" in run.stderr
    assert "Traceback" not in run.stderr
