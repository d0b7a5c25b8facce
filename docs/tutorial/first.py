"""The tutorial's plan: ten calls in good weather, six while the model says nothing.

busyhour run docs/tutorial/first.py
busyhour run docs/tutorial/first.py -o patience=1.5
"""

import sys
from pathlib import Path

from busyhour import AtLeast, AtMost, Call, Command, Control, Greeting, Phase, Plan, Poisson, Say, Scenario, Variation
from busyhour.carriers.websocket import PlainWebSocket
from busyhour.emulators import Cartesia, Constant, Deepgram, LogNormal, OpenAI
from busyhour.faults.provider import NoToken
from busyhour.indicators import (
    call_success,
    dead_air,
    dropped,
    first_audio_latency,
    loop_lag,
    missed_turns,
    response_latency,
    send_lateness,
)

QUESTIONS = Scenario("three questions", [Greeting(), Say("hours.today"), Say("hours.parking"), Say("price.card")])

llm = OpenAI(name="llm", first_token=LogNormal(150, 0.2), between_tokens=Constant(6))
stt = Deepgram(name="stt", final=LogNormal(40, 0.2))
tts = Cartesia(name="tts", first_audio=LogNormal(60, 0.2))
carrier = PlainWebSocket(path="/media")


def agent(patience: float) -> Command:
    return Command(
        [sys.executable, str(Path(__file__).with_name("agent.py"))],
        name="agent",
        env={"DEEPGRAM_URL": stt, "OPENAI_BASE_URL": llm, "CARTESIA_URL": tts, "PATIENCE_SECONDS": f"{patience}"},
    )


def plan(patience: float = 60.0) -> Plan:
    fair = Phase("fair weather", Poisson(1, count=10, seed=1), Call([QUESTIONS]))
    silent = Phase("silent model", Poisson(1, count=6, seed=2), Call([QUESTIONS]), faults=[NoToken(llm)])
    greeted = AtMost(first_audio_latency(fair, q=0.5), 1000, "ms")
    prompt = AtMost(response_latency(fair, q=0.5), 1000, "ms")
    heard = AtMost(missed_turns(fair), 10, "%")
    whole = AtLeast(call_success(fair), 70, "%")
    waiting = AtMost(dead_air(silent), 3, "s")
    patient = Variation(name="patient for ever", services=[agent(60)])
    impatient = Variation(name="patient for 1.5 s", services=[agent(1.5)])
    return Plan(
        target=agent(patience),
        carrier=carrier,
        services=[llm, stt, tts],
        phases=[fair, silent],
        gates=[greeted, prompt, heard, whole, waiting],
        valid_if=[AtMost(dropped(), 0), AtMost(send_lateness(q=0.99), 5, "ms"), AtMost(loop_lag(q=0.99), 20, "ms")],
        controls=[Control(waiting, red=patient, benign=impatient)],
    )
