import numpy as np
import pybase64
import pytest

from busyhour.clock import VirtualClock
from busyhour.errors import ProtocolError
from busyhour.media.codec import Codec, codec
from busyhour.media.leg import Leg
from busyhour.media.speech import loud_windows
from busyhour.media.studio import Batch, Studio, encode
from busyhour.model import MS, Audio, Heard, HeardKind, Samples

PCMU = codec("PCMU")
CODECS = [PCMU, codec("PCMA"), codec("L16", 8_000), codec("L16", 16_000), codec("L16", 24_000)]


def sound(ms: float, rate_hz: int = 8_000) -> np.ndarray:
    return (8_000 * np.sin(2 * np.pi * 440 * np.arange(round(ms * rate_hz / 1_000)) / rate_hz)).astype(np.int16)


def audio_of(samples: np.ndarray) -> Audio:
    return Audio("test", "test", samples, 8_000, 0, len(samples))


class Notebook:
    """An ear that writes down what it is given."""

    def __init__(self, *, aligned: bool = True) -> None:
        self.aligned = aligned
        self.windows: list[tuple[int, bytes]] = []
        self.samples: list[tuple[int, list[int]]] = []
        self.refused: list[tuple[int, str]] = []

    def take_windows(self, loud: bytes, at_ns: int) -> bool:
        if self.aligned:
            self.windows.append((at_ns, loud))
        return self.aligned

    def take(self, samples: Samples, at_ns: int) -> None:
        self.samples.append((at_ns, samples.tolist()))

    def refuse(self, failure: ProtocolError, at_ns: int) -> None:
        self.refused.append((at_ns, str(failure)))


def test_a_chunk_that_is_as_long_as_a_frame_in_base64_only_keeps_all_its_samples() -> None:
    batch, ear = Batch(PCMU), Notebook()
    payload = pybase64.b64encode(PCMU.encode(sound(20.25)))
    assert len(payload) == batch.payload_bytes
    batch.append((ear, 1, payload))
    batch.decode()
    assert [len(samples) for _, samples in ear.samples] == [162]


@pytest.mark.parametrize("named", CODECS, ids=str)
def test_a_batch_judges_every_frame_as_if_it_were_alone(named: Codec) -> None:
    batch = Batch(named)
    aligned, inside = Notebook(), Notebook(aligned=False)
    levels = [0, 40, 300, 3_000, 30_000]
    noise = [np.random.default_rng(n).integers(-n - 1, n + 1, named.frame_samples).astype(np.int16) for n in levels]
    for n, samples in enumerate(noise):
        payload = pybase64.b64encode(named.encode(samples))
        assert len(payload) == batch.payload_bytes
        batch.append((aligned, n, payload))
        batch.append((inside, n, payload))
    batch.decode()
    batch.decode()  # nothing is left
    decoded = [named.decode(named.encode(samples)) for samples in noise]
    window = named.rate_hz // 400
    assert aligned.windows == [(n, loud_windows(samples, window).tobytes()) for n, samples in enumerate(decoded)]
    assert inside.samples == [(n, samples.tolist()) for n, samples in enumerate(decoded)]
    assert any(b"\1" in loud for _, loud in aligned.windows)


def test_one_bad_frame_does_not_spoil_the_batch() -> None:
    batch, good, bad = Batch(PCMU), Notebook(), Notebook()
    frame = pybase64.b64encode(PCMU.silence)
    batch.append((good, 1, frame))
    batch.append((bad, 2, b"*" * len(frame)))
    batch.append((good, 3, frame))
    batch.decode()
    assert [at_ns for at_ns, _ in good.samples] == [1, 3]
    assert [at_ns for at_ns, _ in bad.refused] == [2]
    assert "216 characters is not base64" in bad.refused[0][1]


def test_frames_of_many_legs_are_decoded_together_and_kept_apart() -> None:
    clock = VirtualClock()
    studio = Studio(clock)
    legs = [Leg(studio=studio, codec=CODECS[n % 5], send=lambda _chunk, _index: None) for n in range(20)]

    async def main() -> list[Heard | None]:
        async with studio.turning():
            began_ns = clock.now_ns()
            for step in range(10):
                for n, leg in enumerate(legs):
                    named = CODECS[n % 5]
                    part = sound(20, named.rate_hz) if step >= n % 4 else np.zeros(named.frame_samples, np.int16)
                    leg.media(pybase64.b64encode(named.encode(part)), began_ns)
            await clock.sleep_until(began_ns + 300 * MS)
            return [await leg.hear(0) for leg in legs]

    heard = clock.run(main())
    assert [event and (event.kind, event.at_ns) for event in heard] == [
        (HeardKind.ONSET, n % 4 * 20 * MS) for n in range(20)
    ]


def test_encoded_audio_is_shared_and_bounded() -> None:
    studio = Studio(VirtualClock())
    audio = audio_of(sound(100))
    assert studio.frames(audio, PCMU) is studio.frames(audio, PCMU)
    first = studio.frames(audio, PCMU)
    for _ in range(512):
        studio.frames(audio_of(sound(20)), PCMU)
    assert studio.frames(audio, PCMU) is not first


def test_audio_without_speech_or_samples_still_makes_a_frame() -> None:
    nothing = encode(Audio("nothing", "", sound(0), 8_000, 0, 0), PCMU)
    assert (nothing.first_speech, nothing.last_speech) == (0, 0)
    assert nothing.payloads == (pybase64.b64encode(PCMU.silence),)
