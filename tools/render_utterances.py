"""Render the shipped utterances: data/caller.tsv and data/agent.tsv -> WAV files and manifest.json.

Run it after a change of the tables, with flite 2.2 installed (voices slt, rms, awb, kal16):

    python tools/render_utterances.py

Words are found by aligning the sounds flite prints for the whole sentence with those of each word spoken alone. Agent
sentences are spoken by slt, a little faster than the callers, and so differ from them in every sample.
"""

from __future__ import annotations

import json
from pathlib import Path

import busyhour.media
from busyhour.media.rendering import RATE_HZ, render, write_wav
from busyhour.model import JSON, Audio

DATA = Path(busyhour.media.__file__).parent / "data"
AGENT_VOICE, AGENT_SPEED = "slt", 1.12


def main() -> None:
    manifest: dict[str, JSON] = {"rate_hz": RATE_HZ}
    manifest["caller"] = {
        name: _row(render(name, text, voice=voice), "caller", voice) for name, voice, text in _table("caller.tsv")
    }
    manifest["agent"] = {
        name: _row(render(name, text, voice=AGENT_VOICE, speed=AGENT_SPEED), "agent", AGENT_VOICE)
        for name, text in _table("agent.tsv")
    }
    (DATA / "manifest.json").write_text(_lines(manifest), encoding="utf-8")


def _table(name: str) -> list[list[str]]:
    return [line.split("\t") for line in (DATA / name).read_text(encoding="utf-8").splitlines() if line]


def _row(audio: Audio, party: str, voice: str) -> dict[str, JSON]:
    folder = DATA / party
    folder.mkdir(exist_ok=True)
    write_wav(folder / f"{audio.name}.wav", audio.samples, audio.rate_hz)
    return {
        "voice": voice,
        "text": audio.text,
        "speech": [audio.speech_began, audio.speech_ended],
        "words": [[word.text, word.began, word.ended] for word in audio.words],
    }


def _lines(manifest: dict[str, JSON]) -> str:
    """JSON with one line for each utterance, so that a change reads well in a diff."""
    parts = [f' "rate_hz": {manifest["rate_hz"]}']
    for party in ("caller", "agent"):
        rows = manifest[party]
        assert isinstance(rows, dict)
        lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items())
        parts.append(f' "{party}": {{\n{lines}\n }}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    main()
