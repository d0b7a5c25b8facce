import numpy as np
import pybase64
import pytest

from busyhour.clock import VirtualClock
from busyhour.media.codec import Codec, codec
from busyhour.media.leg import Leg
from busyhour.media.speech import loud_windows
from busyhour.media.studio import Batch, Inbox, Studio, encode
from busyhour.media.wheel import Wheel
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

    def take_silence(self, at_ns: int) -> bool:
        return False

    def take_windows(self, loud: bytes, at_ns: int) -> bool:
        if self.aligned:
            self.windows.append((at_ns, loud))
        return self.aligned

    def take(self, samples: Samples, at_ns: int) -> None:
        self.samples.append((at_ns, samples.tolist()))


@pytest.mark.parametrize("named", CODECS, ids=str)
def test_a_batch_judges_every_frame_as_if_it_were_alone(named: Codec) -> None:
    batch = Batch(named)
    aligned, inside = Notebook(), Notebook(aligned=False)
    levels = [0, 40, 300, 3_000, 30_000]
    noise = [np.random.default_rng(n).integers(-n - 1, n + 1, named.frame_samples).astype(np.int16) for n in levels]
    for n, samples in enumerate(noise):
        batch.append((aligned, n, named.encode(samples)))
        batch.append((inside, n, named.encode(samples)))
    batch.decode()
    batch.decode()  # nothing is left
    decoded = [named.decode(named.encode(samples)) for samples in noise]
    window = named.rate_hz // 400
    assert aligned.windows == [(n, loud_windows(samples, window).tobytes()) for n, samples in enumerate(decoded)]
    assert inside.samples == [(n, samples.tolist()) for n, samples in enumerate(decoded)]
    assert any(b"\1" in loud for _, loud in aligned.windows)


class Curious:
    """A reader that wants all that has come to be read, while it is told of a message."""

    def __init__(self, inbox: Inbox) -> None:
        self.inbox = inbox
        self.told: list[tuple[str, bytes, int]] = []
        self.granted: list[bool] = []

    def read(self, kind: str, message: bytes, at_ns: int) -> None:
        self.granted.append(self.inbox.read())
        self.told.append((kind, message, at_ns))


def test_what_arrived_is_read_in_order_and_no_reader_is_told_inside_of_another() -> None:
    inbox = Inbox(Wheel())
    reader = Curious(inbox)
    assert not inbox.waits
    for at_ns in range(3):
        inbox.put((reader, "text", b"%d" % at_ns, at_ns))
    assert inbox.waits
    assert inbox.read()
    assert reader.told == [("text", b"0", 0), ("text", b"1", 1), ("text", b"2", 2)]
    assert reader.granted == [False] * 3
    assert not inbox.waits
    assert inbox.read()
    assert len(reader.told) == 3


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
