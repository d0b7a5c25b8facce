"""How the recognition twin listens: audio in, the words of known utterances out, with their times. Pure: no clock.

    vocabulary = Vocabulary(utterances().values())     # once per process
    listener = Listener(vocabulary, 8000, endpoint_ms=300)
    for event in listener.feed(samples): ...            # SpeechBegan, Partial, Final
    transcript = listener.flush()
    hear_together([(listener, samples), ...])           # what feed gives of each of many streams, for less CPU

Nothing but the samples tells it what was said. What it does: log band energies (300-3400 Hz, 25 ms every 10 ms)
relative to the level around them (`spectra`); a shortlist of references by patches of 300 ms (`references`); a local
alignment with those (`alignment`); a match is believed if it accounts for the sound around it (`listener`).

Measured with 40 of the shipped utterances in mu-law at 8 kHz, as score per loud frame; a match is believed from
0.45 + 6 / score on, which is 0.5 for a typical one:

    sound                               lowest  median  highest     words wrong
    as sent, or 12 dB lower             0.97    0.99    1.00        0 %
    white noise at 20 dB SNR            0.77    0.96    0.99        0 %
    10 % of the frames lost             0.72    0.90    0.98        1 %
    30 % of the frames lost             0.51    0.73    0.95        17 %
    29 sentences it does not know       0.10    0.16    0.38        (same voice and subject)
    20 others in all four voices        0.09    0.20    0.39

Clipping is what it bears worst: 12 dB over full scale makes 5 % of the words wrong; and what begins within 0.4 s of
other speech may lose its first word or two, which are soft beside it. A stream whose caller talks half of the time
takes 0.2 % of a core, fed in pieces of 80 ms, and 2 ms for its dearest piece; a reference more adds less than 0.001 %.
Long references are cut in parts of at most 6 s. 16-bit silence, noise, tones and music bring no match at all.
"""

from busyhour.emulators.listening.listener import (
    Event,
    Final,
    Listener,
    Partial,
    SpeechBegan,
    Transcript,
    WordHeard,
    hear_together,
)
from busyhour.emulators.listening.references import Vocabulary

__all__ = [
    "Event",
    "Final",
    "Listener",
    "Partial",
    "SpeechBegan",
    "Transcript",
    "Vocabulary",
    "WordHeard",
    "hear_together",
]
