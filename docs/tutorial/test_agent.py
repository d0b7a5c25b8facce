"""The second tutorial's tests: of the agent of the first, in a suite as yours may be."""

import sys

from busyhour import AtMost, Burst, Call, Command, Greeting, Phase, Plan, Say, Scenario
from busyhour.carriers.websocket import PlainWebSocket
from busyhour.emulators import Cartesia, Deepgram, OpenAI
from busyhour.indicators import dead_air, send_lateness
from busyhour.pytest_plugin import Busyhour

llm, stt, tts = OpenAI(name="llm"), Deepgram(name="stt"), Cartesia(name="tts")
agent = Command([sys.executable, "agent.py"], env={"DEEPGRAM_URL": stt, "OPENAI_BASE_URL": llm, "CARTESIA_URL": tts})


def test_a_caller_is_answered(busyhour: Busyhour) -> None:
    call = busyhour.call(agent, path="/media", carrier="plain", services=[llm, stt, tts], says=["hours.today"])
    assert call.greeting_ms < 500
    assert call.turns[0].response_ms < 1500
    assert call.ended_by == "caller"


def test_the_model_may_fall_silent(busyhour: Busyhour) -> None:
    judged = busyhour.run("first.py", patience=1.5)
    assert judged.verdict("dead air").estimate.value < 2.5


def test_three_callers_at_once(busyhour: Busyhour) -> None:
    crowd = Phase("crowd", Burst(3), Call([Scenario("a question", [Greeting(), Say("hours.today")])]))
    plan = Plan(
        target=agent,
        carrier=PlainWebSocket(path="/media"),
        services=[llm, stt, tts],
        phases=[crowd],
        gates=[AtMost(dead_air(crowd), 3, "s")],
        valid_if=[AtMost(send_lateness(q=0.99), 5, "ms")],
    )
    busyhour.plan(plan)
