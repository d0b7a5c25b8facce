"""A call leg without its wire format: the caller's mouth and ear. Carriers put a Leg into their Line."""

from __future__ import annotations

import asyncio
from binascii import Error as Base64Error
from bisect import insort
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count

import pybase64

from busyhour.disturbance import Disturbance
from busyhour.errors import ProtocolError
from busyhour.fastlane import LEAST_GAP_NS, UNREAD_NS_MAX, LegState, Slot, SpeakingState, StreamState
from busyhour.media.codec import FRAMES_PER_SECOND, Codec
from busyhour.media.playout import QUEUED_NS_MAX, Playout, Stretch
from busyhour.media.speech import HANGOVER_NS, Speech
from busyhour.media.studio import Frames, Studio
from busyhour.media.tape import COMPACT_FRAMES, Tape
from busyhour.model import MS, SECOND, Audio, CallFailed, Clock, Heard, HeardKind, Samples, Spoken
from busyhour.recording import Sound

UNHEARD_MAX = 1_000
_ASKED_AGAIN_NS = 5 * MS
# How much earlier than it must, each leg looks at what goes on sounding. What holds up the process befalls all that
# sound, and a hangover later all would look at once, which holds it up again: it would get worse with every time.
_EARLY_NS = (number * 154_508_497 % (HANGOVER_NS // 2) for number in count())  # the golden section of 250 ms


class _Speaking(SpeakingState):
    def __init__(self, frames: Frames, over: asyncio.Future[None]) -> None:
        self.payloads, self.first_speech, self.last_speech = frames.payloads, frames.first_speech, frames.last_speech
        self.next = 0
        self.over = over
        self.began_ns = 0
        self.ended_ns = 0


class Leg(LegState):
    """The caller's end of one media stream; all but the wire format of a `model.Line`.

    studio: the wheel and decoder shared by all legs of the process. send(payload, index): called every 20 ms, from the
    wheel, to put a frame on the wire: base64 octets, and the number of frames sent before. It may raise OSError, which
    ends this leg with "lost". failed(error): called once when the far end sends too much audio or what is not base64;
    the leg has then ended with "protocol error". record_ns: keep the sound of both directions, so much of it (0: none),
    for `recorded`. Times that are given must come from the studio's clock, in order.
    """

    disturbance: Disturbance
    _playout: Playout
    _speaking: _Speaking | None
    _tape: Tape | None
    _ended: tuple[Heard, CallFailed] | None

    def __init__(
        self,
        *,
        studio: Studio,
        codec: Codec,
        send: Callable[[bytes, int], None],
        clock: Clock | None = None,
        jitter_buffer_ns: int = 0,
        failed: Callable[[ProtocolError], None] | None = None,
        record_ns: int = 0,
    ) -> None:
        self._studio = studio
        self._clock = clock or studio.clock
        self._codec = codec
        self._send = send
        self._stream = None
        self._failed = failed
        self._silence = pybase64.b64encode(codec.silence)
        self._batch = studio.batch(codec)
        self._batched = self._batch.append
        self._meter = self._batch.meter
        self._frame_bytes, self._sample_bytes = codec.frame_bytes, codec.sample_bytes
        self._chunk_bytes_max = QUEUED_NS_MAX // SECOND * FRAMES_PER_SECOND * codec.frame_bytes
        self._playout = Playout(codec.rate_hz, jitter_buffer_ns)
        self._speech = Speech()
        self._slot: Slot | None = None
        self._opened_ns = 0
        self._sent = 0
        self._undecoded = False
        self._speaking = None
        self._events: list[Heard] = []
        self._waiter: asyncio.Future[None] | None = None
        self._failure: ProtocolError | None = None
        self._ended = None
        self.disturbance = studio.disturbance
        self._forth = self.disturbance.path("to agent")
        self._back = self.disturbance.path("to caller")
        self._held = []  # frames under way: when they arrive, which they are
        self._release: asyncio.TimerHandle | None = None
        self._whole_tape = Tape(self._batch, record_ns) if record_ns else None
        self._tape = self._whole_tape  # while it turns
        self._early_ns = next(_EARLY_NS)
        self._looks_after_ns = HANGOVER_NS - self._early_ns
        self._alert()

    # ------------------------------------------------------------ for the carrier

    @property
    def opened_ns(self) -> int:
        """When `open` was called: the media stream was open in both directions."""
        return self._opened_ns

    def open(self, at_ns: int) -> None:
        """Begin to send: silence, until `say`. Inside `studio.turning()`."""
        self._opened_ns = at_ns
        if self._slot is None and self._ended is None:
            self._slot = self._studio.wheel.attach(self._tick, self._lost, self._sent_all, self)

    def close(self) -> None:
        """Stop sending and hearing; what was not yet heard is ENDED "closed". Harmless on a leg that has ended."""
        self.end(self._clock.now_ns(), "closed")

    def media(self, payload: bytes, at_ns: int) -> None:
        """Take a chunk of audio in base64 that arrived at `at_ns`: any length to 30 s, an odd one too.

        Raises ProtocolError for what is not base64, for a chunk of more than 30 s, or audio for a queue in which more
        than 30 s wait; how many messages come in a second is the socket's to limit. It has ended the leg then (see
        `failed`), and media after that raise it again.
        """
        try:
            octets = pybase64.b64decode(payload, None, True)
        except Base64Error as error:
            self._catch_up()
            self.refuse(ProtocolError(f"a media payload of {len(payload)} characters is not base64: {error}"), at_ns)
        else:
            self.octets(octets, at_ns)
        self._raise_failure()

    def octets(self, octets: bytes, at_ns: int) -> None:
        """As `media`, for octets of the codec; what that would raise is told to `failed` only.

        A frame of 20 ms is decoded within 5 ms, with those of all legs.
        """
        if self._ended is not None or (self.disturbance.media and self._back.arrives_ns(at_ns) is None):
            return
        if len(octets) < self._sample_bytes:  # many an agent ends what it says with an empty message
            return
        if self._tape is not None:
            self._tape.heard.append(octets)
        if len(octets) == self._frame_bytes:
            self._undecoded = True
            self._batched((self, at_ns, octets))
        elif len(octets) > self._chunk_bytes_max:
            self._catch_up()
            self.refuse(ProtocolError(f"a media chunk of more than {QUEUED_NS_MAX // SECOND} s"), at_ns)
        else:
            self._catch_up()
            self.take(self._codec.decode(octets), at_ns)

    def send_by(self, send: Callable[[bytes, int], None], stream: StreamState | None = None) -> None:
        """From now on; as `send` of the beginning. stream: what `send` puts the frames on, unchanged."""
        if self._ended is None:
            self._send, self._stream = send, stream

    def play(self, samples: Samples, at_ns: int) -> int:
        """The carrier itself sounds to the caller (a prompt, a file): queue samples at the codec's rate behind what the
        agent sent, and say when they will have been played."""
        self._catch_up()
        if self._tape is not None:
            self._tape.heard.append(samples)
        self.take(samples, at_ns)
        self._wind(at_ns)
        self._raise_failure()
        return self._playout.ended_ns

    def clear(self, at_ns: int) -> list[str]:
        """Drop the audio not yet played; gives the names of the marks that were waiting for it."""
        self._catch_up()
        cleared = self._playout.clear(at_ns)
        self._alert()
        if self._tape is not None:
            self._tape.clear(at_ns)
        self._judge(cleared.played)
        self._speech.cleared()
        return cleared.marks

    def mark(self, name: str, at_ns: int, on_played: Callable[[str], None]) -> None:
        """Call `on_played(name)` when the audio sent before has been played, at the next turn of the wheel (20 ms).

        Raises ProtocolError when 1,000 marks are waiting.
        """
        self._catch_up()
        self._playout.mark(name, at_ns, on_played)
        self._alert()
        if self._tape is not None:
            self._tape.mark(name, max(at_ns, self._playout.ended_ns))

    def pressed(self, digit: str, at_ns: int) -> None:
        """The far end sent a DTMF digit."""
        self._tell([Heard(HeardKind.DTMF, at_ns, detail=digit)])

    def end(self, at_ns: int, why: str, detail: str = "") -> None:
        """The call is over: `hear` gives what was played by `at_ns`, then ENDED; `say` raises CallFailed(why, detail).

        Harmless on a leg that has ended: the first reason stays.
        """
        if self._ended is not None:
            return
        self._studio.decode()
        if self._ended is not None:  # what was still to decode was no audio
            return
        self._judge(self._playout.clear(at_ns).played)
        self._tell(self._speech.stopped())
        failure = CallFailed(why, detail)
        self._ended = (Heard(HeardKind.ENDED, at_ns, detail=str(failure)), failure)
        if self._release is not None:
            self._release.cancel()
        if self._slot is not None:
            self._studio.wheel.detach(self._slot)
        if self._speaking is not None and not self._speaking.over.done():
            self._speaking.over.set_exception(_again(failure))
        self._wake()
        # What the leg refers to refers to it: a call must go when it is over, without a garbage collector.
        self._slot, self._failed, self._send, self._stream = None, None, _unsent, None

    def recorded(self) -> Sound | None:
        """What was said and heard, once the leg has ended; only once. None if it was not to be recorded."""
        if self._ended is None or self._whole_tape is None:
            return None
        tape, self._whole_tape, self._tape = self._whole_tape, None, None
        return tape.sound(self._opened_ns, self._ended[0].at_ns)

    # ------------------------------------------------------------ for the workload

    async def say(self, audio: Audio) -> Spoken:
        """Send the audio from the next frame on; returns when its last frame has been handed to the socket.

        `ended_ns` is the stamp taken just after the frame that holds the last sample of *speech* was handed to the
        socket, `began_ns` that of the frame with the first one. They are stamps of what happened, no due times, and
        not corrected for the place inside the frame: nobody can have a frame before all of it was spoken. An agent
        that answers D ms after it received the last frame with speech therefore has a latency of D ms.

        Raises CallFailed when the call ends first. Cancelled, it falls silent with the next frame.
        """
        if self._ended is not None:
            raise _again(self._ended[1])
        if self._speaking is not None:
            raise RuntimeError("two utterances at once on one line")
        frames = self._studio.frames(audio, self._codec)
        speaking = self._speaking = _Speaking(frames, asyncio.get_running_loop().create_future())
        try:
            await speaking.over
        finally:
            if self._speaking is speaking:
                self._speaking = None
        return Spoken(speaking.began_ns, speaking.ended_ns)

    async def hear(self, until_ns: int) -> Heard | None:
        """The next event of the far end, in order of `at_ns`; None if there was none by then. After ENDED: ENDED.

        Events are told within 25 ms of being certain: an onset 10 ms or so after it, an offset after the hangover
        of 500 ms; their `at_ns` is when it was played. Nothing is told of audio that `clear` may still drop.
        """
        if self._waiter is not None:
            raise RuntimeError("two listeners at once on one line")
        loop = asyncio.get_running_loop()
        while True:
            left_ns = until_ns - self._clock.now_ns()
            if left_ns <= 0:
                self._studio.decode()
            heard = self._next(self._studio.decoded_ns)
            if heard is not None:
                return heard
            # What came before `until_ns` may wait to be read, in a process that was held up.
            if left_ns <= 0 and (self._studio.decoded_ns >= until_ns or left_ns < -UNREAD_NS_MAX):
                return None
            self._waiter = loop.create_future()
            # A loop that counts in milliseconds would turn through the last of them; and what is still unread when the
            # time is up will not be read the sooner for being asked after by every call.
            timer = loop.call_later(max(left_ns, MS if left_ns > 0 else _ASKED_AGAIN_NS) / SECOND, self._wake)
            try:
                await self._waiter
            finally:
                timer.cancel()
                self._waiter = None

    # ------------------------------------------------------------ for the studio

    def take_silence(self, at_ns: int) -> bool:
        self._undecoded = False
        if self._ended is not None:
            return True
        taken = self._playout.push_silence(at_ns)
        if taken and self._tape is not None:
            self._tape.heard_until.append(self._playout.ended_ns)
        return taken

    def take_windows(self, loud: bytes, at_ns: int) -> bool:
        self._undecoded = False
        if self._ended is not None:
            return True
        if not self._steady or self._playout.gap_ns(at_ns) >= LEAST_GAP_NS:
            self._alert()
        try:
            taken = self._playout.push_windows(loud, at_ns)
        except ProtocolError as failure:
            self.refuse(failure, at_ns)
            return True
        if taken and self._tape is not None:
            self._tape.heard_until.append(self._playout.ended_ns)
        return taken

    def take(self, samples: Samples, at_ns: int) -> None:
        self._undecoded = False
        if self._ended is not None:
            return
        self._alert()
        try:
            self._playout.push(samples, at_ns)
        except ProtocolError as failure:
            self.refuse(failure, at_ns)
            return
        if self._tape is not None:
            self._tape.heard_until.append(self._playout.ended_ns)

    def refuse(self, failure: ProtocolError, at_ns: int) -> None:
        self._undecoded = False
        if self._ended is not None:
            return
        self._failure, failed = failure, self._failed
        self.end(at_ns, "protocol error", str(failure))
        if failed is not None:
            failed(failure)

    # ------------------------------------------------------------ every 20 ms

    def _tick(self, _due_ns: int) -> None:
        speaking = self._speaking
        payload = self._silence if speaking is None else speaking.payloads[speaking.next]
        if self.disturbance.media or self._held:
            self._put(payload)
        else:
            self._send(payload, self._sent)
        if speaking is not None:
            self._sent_speech(speaking, self._clock.now_ns())
        self._sent += 1

    def _sent_all(self) -> None:
        """The frames of the slot are sent: now there is time to listen."""
        now_ns = self._studio.decoded_ns
        if self._tape is not None and not self._sent % COMPACT_FRAMES:
            self._wind(now_ns)
        playout, speech = self._playout, self._speech
        if playout.tells_ns <= now_ns or playout.marks or (speech.sounding and speech.offset_ns <= now_ns):
            self._listen(now_ns)
        if self._waiter is not None and (self._events or self._ended is not None) and self._has_news(now_ns):
            self._wake()
        if self._tape is None and not playout.marks and not self._events:
            # While it sounds, what comes without a break can tell nothing new before the hangover would be over.
            self._steady, self._offset_ns = speech.is_within(playout.run_ns), speech.offset_ns
            tells_ns = speech.offset_ns if self._steady else playout.tells_ns
            self.wakes_ns = min(tells_ns, speech.offset_ns) if speech.sounding else tells_ns
            if self._steady and now_ns < self.wakes_ns - self._early_ns:
                self.wakes_ns -= self._early_ns

    def _alert(self) -> None:
        """Something has happened: look at it as soon as the next frames are sent."""
        self.wakes_ns, self._steady = 0, False

    def _put(self, payload: bytes) -> None:
        """Send it, or what becomes of it by the faults of the caller's network: that is the caller's time, too."""
        now_ns = self._clock.now_ns()
        at_ns = self._forth.arrives_ns(now_ns)
        if at_ns is None:
            return
        heappush(self._held, (at_ns, self._sent, payload))
        self._let_go()

    def _let_go(self) -> None:
        """Send what has arrived by now, and come back for the rest."""
        now_ns = self._clock.now_ns()
        while self._held and self._held[0][0] <= now_ns and self._ended is None:
            _, number, payload = heappop(self._held)
            self._send(payload, number)
        if self._release is not None:
            self._release.cancel()
        self._release = None
        if self._held and self._ended is None:
            left = (self._held[0][0] - now_ns) / SECOND
            self._release = asyncio.get_running_loop().call_later(left, self._let_go_later)

    def _let_go_later(self) -> None:
        try:
            self._let_go()
        except (OSError, ProtocolError) as failure:
            self._lost(failure)

    def _sent_speech(self, speaking: _Speaking, now_ns: int) -> None:
        index = speaking.next
        if self._tape is not None:
            self._tape.said.append(speaking.payloads[index])
            self._tape.said_ns.append(now_ns)
        if index == speaking.first_speech:
            speaking.began_ns = now_ns
        if index == speaking.last_speech:
            speaking.ended_ns = now_ns
        speaking.next = index + 1
        if speaking.next == len(speaking.payloads):
            self._speaking = None
            if not speaking.over.done():
                speaking.over.set_result(None)

    def _wind(self, now_ns: int) -> None:
        """Now and then: what is on the tape takes less room, and one that is full turns no more."""
        if self._tape is not None:
            self._tape.compact()
            if self._tape.is_full(now_ns, self._opened_ns):
                self._tape = None

    def _listen(self, now_ns: int) -> None:
        """Judge what has been played by `now_ns`, a time by which everything that arrived has been decoded."""
        if self._ended is not None:
            return
        speech = self._speech
        for began_ns, ended_ns, loud in self._playout.played(now_ns, loud_only=True):
            if events := speech.played(began_ns, ended_ns, loud):
                self._tell(events)
        if speech.sounding and (events := speech.passed(now_ns)):
            self._tell(events)
        if self._playout.marks:
            self._playout.reached(now_ns)

    def _judge(self, played: list[Stretch]) -> None:
        for stretch in played:
            events = self._speech.played(*stretch)
            if events:
                self._tell(events)

    def _tell(self, events: list[Heard]) -> None:
        self._alert()
        for heard in events:
            if len(self._events) < UNHEARD_MAX:  # else nobody has listened for minutes, and nobody will miss it
                insort(self._events, heard, key=_at_ns)

    def _has_news(self, now_ns: int) -> bool:
        if self._events:
            return self._ended is not None or self._events[0].at_ns <= self._speech.settled_ns(now_ns)
        return self._ended is not None

    def _next(self, now_ns: int) -> Heard | None:
        self._listen(now_ns)
        if not self._has_news(now_ns):
            return None
        if self._events:
            return self._events.pop(0)
        return self._ended[0] if self._ended is not None else None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _catch_up(self) -> None:
        """What arrived before must be in the queue before what comes now."""
        if self._undecoded or self._studio.inbox.waits:
            self._studio.decode()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise ProtocolError(str(self._failure))

    def _lost(self, failure: OSError | ProtocolError) -> None:
        why = "protocol error" if isinstance(failure, ProtocolError) else "lost"
        self.end(self._clock.now_ns(), why, str(failure))


def _unsent(_payload: bytes, _index: int) -> None:
    """Where the frames of a leg go that has ended."""


def _again(failure: CallFailed) -> CallFailed:
    """To be raised: a traceback would tie the leg to the frames it came through."""
    return CallFailed(failure.reason, failure.detail)


def _at_ns(heard: Heard) -> int:
    return heard.at_ns
