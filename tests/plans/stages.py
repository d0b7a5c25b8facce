"""The reference agent, and in each phase one stage of its turns made slow by a known amount.

The agent waits 400 ms of silence for the caller's end; in the first phase that is the longest of all.
"""

import sys

from busyhour.arrivals import Burst
from busyhour.carriers.telnyx import Telnyx
from busyhour.emulators import Cartesia, Constant, Deepgram, OpenAI
from busyhour.faults.provider import LateFinal, Slow
from busyhour.faults.proxy import Latency, Proxy
from busyhour.gates import AtMost
from busyhour.indicators import first_audio_latency, response_latency
from busyhour.model import Phase, Plan
from busyhour.services import Command
from busyhour.workloads.call import Call, Greeting, HangUp, Scenario

PATIENCE = 30.0
ASKING = Scenario(
    "asking", [Greeting(PATIENCE), HangUp("price.card", after_ms=50, patience_seconds=PATIENCE)], think_ms=(50, 100)
)


def plan(slow_ms: int = 800) -> Plan:
    llm = OpenAI(name="llm", first_token=Constant(100), between_tokens=Constant(5))
    stt = Deepgram(name="stt", final=Constant(40), late=Constant(slow_ms))
    tts = Cartesia(name="tts", first_audio=Constant(50))
    path = Proxy(llm)
    carrier = Telnyx()
    agent = Command(
        [sys.executable, "-m", "voice_agent"],
        name="agent",
        env={
            "TELNYX_API_BASE": carrier,
            "TELNYX_PUBLIC_KEY": carrier.public_key,
            "TELNYX_API_KEY": "KEY-of-the-twin",
            "LLM_CHAIN": "openai",
            "OPENAI_BASE_URL": path,
            "OPENAI_API_KEY": "sk-of-the-twin",
            "DEEPGRAM_URL": stt,
            "DEEPGRAM_API_KEY": "of-the-twin",
            "TTS_CHAIN": "cartesia",
            "CARTESIA_URL": tts,
            "CARTESIA_API_KEY": "of-the-twin",
            "GREETING": "Hello.",
            "VAD_STOP_MS": "400",
            **dict.fromkeys(("FINAL_SECONDS", "FIRST_TOKEN_SECONDS", "FIRST_AUDIO_SECONDS", "DEAD_AIR_SECONDS"), "20"),
        },
    )
    faults = {
        "end-pointing": [],
        "STT final": [LateFinal(stt)],
        "LLM first token": [Slow(llm, first_token=Constant(slow_ms))],
        "TTS first audio": [Slow(tts, first_audio=Constant(slow_ms))],
        "agent and network": [Latency(path, slow_ms)],
    }
    phases = [Phase(name, Burst(2), Call([ASKING]), faults=some, drain_seconds=60) for name, some in faults.items()]
    return Plan(
        target=agent,
        carrier=carrier,
        services=[llm, stt, tts, path],
        phases=phases,
        gates=[
            *(AtMost(response_latency(phase, q=0.5), 100, "ms") for phase in phases),
            AtMost(first_audio_latency(phases[3], q=0.5), 100, "ms"),
        ],
    )
