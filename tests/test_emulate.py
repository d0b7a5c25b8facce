"""The vendors' twins from the command line: how latencies and failures are written, `emulate` and `behave`."""

from __future__ import annotations

import asyncio
import io
import re
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from busyhour import emulators
from busyhour.emulate import behave, serve
from busyhour.emulate.grammar import latency, latency_text, share, share_text, time_about
from busyhour.emulate.serve import counted
from busyhour.emulate.settings import offered, read
from busyhour.emulate.vendors import VENDORS
from busyhour.emulators import Constant, Empirical, LogNormal
from busyhour.emulators.behaviour import Latency
from busyhour.emulators.profile import Profile
from busyhour.errors import PlanError, ServiceError
from busyhour.media.babble import babble
from busyhour.media.codec import codec

# ---------------------------------------------------------------- latencies and shares


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("350ms", Constant(350)),
        ("0", Constant(0)),
        ("1.5s", Constant(1500)),
        ("constant:80ms", Constant(80)),
        ("lognormal:350ms,0.4", LogNormal(350, 0.4)),
        ("lognormal:0.35s, .4", LogNormal(350, 0.4)),
    ],
)
def test_a_latency_is_read(text: str, meant: Latency) -> None:
    assert latency(text, "--first-token") == meant
    assert latency(latency_text(meant.as_json()), "--first-token") == meant


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "--first-token : no time; write it as 350ms, lognormal:350ms,0.4 or empirical:FILE"),
        ("soon", "--first-token soon: no time"),
        ("350us", "no time"),
        ("2", "--first-token 2: it has no unit; write 2s or 2ms"),
        ("constant:0.5", "--first-token 0.5: it has no unit; write 0.5s or 0.5ms"),
        ("lognormal:350,0.4", "it has no unit; write 350s or 350ms"),
        ("nan", "no time"),
        ("-1ms", "--first-token: Constant: ms is -1.0; it must be a number of ms from 0"),
        ("2h", "no time"),
        ("7200s", "must be a number of ms from 0 to 3600000"),
        ("normal:350ms,20", "'normal' is no distribution; write it as"),
        ("lognormal:350ms", "a log-normal has a median and a sigma, like lognormal:350ms,0.4"),
        ("lognormal:350ms,x", "a log-normal has a median and a sigma"),
        ("lognormal:0ms,0.4", "a log-normal delay is positive, use Constant(0)"),
        ("lognormal:350ms,9", "sigma is 9.0; it must be a number from 0 to 5"),
        ("empirical:/nowhere/x", "--first-token: /nowhere/x cannot be read: No such file or directory"),
    ],
)
def test_an_impossible_latency_is_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(PlanError) as refused:
        latency(text, "--first-token")
    assert sentence in str(refused.value)
    assert len(refused.value.problems) == 1


def test_measured_delays_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "delays"
    path.write_text("120\n\n90.5ms\n1s\n")
    assert latency(f"empirical:{path}", "--final") == Empirical([90.5, 120, 1000])
    path.write_text("\n".join(str(ms) for ms in range(100_000)))
    many = latency(f"empirical:{path}", "--final")
    assert isinstance(many, Empirical)
    assert (len(many.ms), many.ms[0], many.ms[-1]) == (1000, 50, 99950)  # evenly spaced, and small enough to hand on
    assert latency_text(many.as_json()) == "empirical, 1000 delays: p50 50 s, p95 95 s"


@pytest.mark.parametrize(
    ("ms", "setting", "measured"),
    [
        (0, "0ms", "0 ms"),
        (0.04, "0.04ms", "0.04 ms"),
        (0.00001, "0.00001ms", "0.00001 ms"),
        (7.25, "7.25ms", "7.25 ms"),
        (341.4, "341.4ms", "341 ms"),
        (999.9, "999.9ms", "1000 ms"),
        (2010, "2.01s", "2.01 s"),
        (12_345.678, "12.345678s", "12.3 s"),
        (3_600_000, "3600s", "3600 s"),
    ],
)
def test_times_are_written_as_people_write_them(ms: float, setting: str, measured: str) -> None:
    assert latency_text(Constant(ms).as_json()) == setting
    read_back = latency(setting, "--first-token")
    assert isinstance(read_back, Constant)
    assert read_back.ms == pytest.approx(ms)
    assert time_about(ms) == measured
    assert latency_text(Empirical([ms]).as_json()) == f"empirical, 1 delays: p50 {measured}, p95 {measured}"


@pytest.mark.parametrize(
    ("octets", "sentence"),
    [
        (b"", "has no number in it"),
        (b"12\nsoon\n", "line 2: soon: no time"),
        (b"\xff\xfe", "is no text"),
        (b"12\n-1\n", "line 2:"),
    ],
)
def test_a_file_without_delays_is_one_sentence(tmp_path: Path, octets: bytes, sentence: str) -> None:
    (tmp_path / "x").write_bytes(octets)
    with pytest.raises(PlanError, match=sentence):
        latency(f"empirical:{tmp_path / 'x'}", "--final")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("2%:429", ("http_429", 0.02)),
        ("0.02:http_429", ("http_429", 0.02)),
        ("1%:no_token", ("no_token", 0.01)),
        ("100%:hang", ("hang", 1.0)),
        ("0:reset", ("reset", 0.0)),
    ],
)
def test_a_share_is_read(text: str, meant: tuple[str, float]) -> None:
    assert share(text) == meant
    assert share(share_text(*meant)) == meant


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("429", "429, 0.02:http_429 or 1%:no_token; did you mean 100%:429?"),
        ("http_503", "or 1%:no_token; did you mean 100%:http_503?"),
        ("no_token", "or 1%:no_token; did you mean 100%:no_token?"),
        ("429:2%", "429 is no share of all requests, 0% to 100%"),
        ("2:429", "2 is no share of all requests, 0% to 100%; did you mean 2%?"),
        ("120%:429", "120% is no share"),
        ("-1%:429", "-1% is no share"),
        ("nan:429", "write it as a share"),
        ("2%:404", "a twin answers with the statuses 401, 429, 500, 503, not with 404"),
        ("2%:", "write it as a share"),
    ],
)
def test_an_impossible_share_is_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(PlanError) as refused:
        share(text)
    assert sentence in str(refused.value)


# ---------------------------------------------------------------- the vendors


def test_every_twin_that_is_exported_can_be_emulated() -> None:
    services = {name for name in emulators.__all__ if hasattr(getattr(emulators, name), "witnessed")}
    assert services == {vendor.twin for vendor in VENDORS.values()}
    assert all(name == vendor.twin.lower() for name, vendor in VENDORS.items()), "a profile is found by that name"


@pytest.mark.parametrize("name", VENDORS)
def test_the_flags_of_every_vendor_are_its_latencies(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        serve.emulate([name, "--help"], sys.stdout)
    assert ended.value.code == 0
    told = capsys.readouterr().out
    behaviour = VENDORS[name].make()._behaviour
    assert behaviour.latencies
    for setting in (*behaviour.latencies, *behaviour.numbers, *behaviour.switches):
        assert f"--{setting.replace('_', '-')} " in told
    assert f"example:\n  busyhour emulate {name} --port 8001" in told
    assert "of all that is random (default 1)" in told
    assert not re.search(r"\bnow\b", told)  # nothing runs yet


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ([], "which vendor? Give its name first, one of openai, "),
        (["--port", "1"], "which vendor?"),
        (["opnai"], "there is no twin of 'opnai'; known are openai, anthropic, "),
        (["openai", "--port", "70000"], "--port 70000: a port is from 0 (any free one) to 65535"),
        (["openai", "--every", "0"], "--every 0: give a number of seconds above 0"),
        (["openai", "--first-token", "soon"], "--first-token soon: no time"),
        (["openai", "--fail", "60%:429", "--fail", "50%:503"], "the shares of the outcomes add up to 1.1"),
        (["openai", "--fail", "6%:429", "--fail", "5%:429"], "http_429 is given twice"),
        (["openai", "--fail", "none", "--fail", "5%:429"], "--fail none stands alone"),
        (["openai", "--fail", "1%:zero_audio"], "outcome 'zero_audio' is unknown here; possible are "),
        (["openai", "--set", "models"], "--set models: write it as NAME=VALUE, with a name of "),
        (["openai", "--set", "port=3"], "--set port=3: write it as NAME=VALUE"),
        (["openai", "--set", "outcomes={}"], "--set outcomes={}: write it as NAME=VALUE"),
        (["openai", "--set", "first_token=9"], "it has a flag of its own; write --first-token VALUE"),
        (["openai", "--set", 'models=["m"]'], "write the names with commas between them, like a,b"),
        (["openai", "--set", "models=a,,b"], "--set models=a,,b: write the names with commas"),
        (["openai", "--set", "gullible=maybe"], "--set gullible=maybe: it is a switch; write on or off"),
        (["openai", "--set", "api_key=a", "--set", "api_key=b"], "--set api_key=b: api_key is given twice"),
        (["pinecone", "--set", "dimension=3.5"], "--set dimension=3.5: no whole number"),
        (["deepgram", "--set", "utterances=x"], "--set utterances=x: write it as NAME=VALUE, with a name of api_key"),
        (["openai", "--set", "upstream=api.openai.com"], "upstream is 'api.openai.com'; it must be the http or https"),
        (["cartesia", "--realtime-factor", "fast"], "--realtime-factor fast: no number"),
        (["cartesia", "--realtime-factor", "0"], "realtime_factor is 0.0; it must be a positive number"),
        (["openai", "--profile", "/nowhere.json"], "/nowhere.json: the profile cannot be read: No such file"),
    ],
)
def test_what_cannot_be_emulated_is_one_sentence(argv: Sequence[str], sentence: str) -> None:
    with pytest.raises(PlanError) as refused:
        serve.emulate(argv, io.StringIO())
    assert sentence in str(refused.value)
    assert len(refused.value.problems) == 1


NOWHERE = "upstream=http://127.0.0.1:9/v1"


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--first-token", "1s"], "--first-token"),
        (["--between-tokens", "0", "--first-token", "1s", "--fail", "1%:429"], "--first-token and --between-tokens"),
        (["--profile", "PROFILE"], "--profile"),
    ],
)
def test_latencies_beside_an_upstream_are_refused(flags: list[str], named: str, tmp_path: Path) -> None:
    path = tmp_path / "openai.json"
    Profile(vendor="openai", learned="", upstream="", requests=1, latencies={"first_token": Constant(5)}).write(path)
    argv = [str(path) if word == "PROFILE" else word for word in flags]
    with pytest.raises(PlanError) as refused:
        serve.emulate(["openai", "--set", NOWHERE, *argv], io.StringIO())
    assert str(refused.value) == (
        f"{named} beside --set upstream: the upstream takes its own time, and the twin adds none; leave one of the two "
        "out"
    )


OFFERED = {
    "openai": {"models", "api_key", "gullible", "upstream"},
    "anthropic": {"models", "api_key", "gullible", "upstream"},
    "gemini": {"models", "api_key", "gullible", "upstream"},
    "deepgram": {"api_key"},
    "cartesia": {"api_key"},
    "elevenlabs": {"api_key"},
    "pinecone": {"index", "dimension", "metric", "records", "vectors_at_most", "api_key"},
}
WRITTEN: dict[str, tuple[str, object]] = {
    "api_key": ("7", "7"),
    "dimension": ("3", 3),
    "gullible": ("on", True),
    "index": ("a=b", "a=b"),
    "metric": ("euclidean", "euclidean"),
    "models": ("gpt-5, abc", ["gpt-5", "abc"]),
    "records": ("records.json", "records.json"),
    "upstream": ("http://x/v1", "http://x/v1"),
    "vectors_at_most": ("9", 9),
}


@pytest.mark.parametrize("name", VENDORS)
def test_what_is_offered_is_read_by_its_type_and_the_rest_is_not_offered(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    behaviour = VENDORS[name].make()._behaviour.as_json()
    names = set(offered(VENDORS[name], behaviour))
    assert names == OFFERED[name]
    texts = [f"{setting}={WRITTEN[setting][0]}" for setting in names]
    assert read(VENDORS[name], texts, behaviour) == {setting: WRITTEN[setting][1] for setting in names}
    with pytest.raises(SystemExit):
        serve.emulate([name, "--help"], sys.stdout)
    told = " ".join(capsys.readouterr().out.split())
    assert f"another setting of the twin's ({', '.join(offered(VENDORS[name], behaviour))})" in told
    assert "utterances" not in told


def test_a_used_port_is_one_sentence() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        words = (
            f"Port {port} of 127.0.0.1 cannot be had .*: stop what holds it, or take any free one: --port 0, in a plan "
        )
        with pytest.raises(ServiceError, match=words):
            serve.emulate(["openai", "--port", str(port)], io.StringIO())


# ---------------------------------------------------------------- in the foreground


class Foreground:
    """`busyhour emulate` in a process of its own, and what it has printed so far."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.lines: list[str] = []

    async def until(self, words: str) -> str:
        assert self.process.stdout is not None
        async with asyncio.timeout(60):
            while line := (await self.process.stdout.readline()).decode():
                self.lines.append(line.rstrip())
                if words in line:
                    return line.rstrip()
        assert self.process.stderr is not None
        pytest.fail(f"it never said {words!r}: {self.lines} {(await self.process.stderr.read()).decode()}")

    async def end(self, sign: signal.Signals) -> tuple[int | None, str]:
        self.process.send_signal(sign)
        out, err = await asyncio.wait_for(self.process.communicate(), 60)
        assert err == b""
        return self.process.returncode, out.decode()


@asynccontextmanager
async def foreground(*argv: str) -> AsyncIterator[Foreground]:
    command = (sys.executable, "-m", "busyhour", *argv)
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE)
    try:
        yield Foreground(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def ask(origin: str) -> int:
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{origin}/v1/chat/completions", json=body, headers={"Authorization": "Bearer x"}) as answer,
    ):
        await answer.read()
        return answer.status


async def changed(*argv: str) -> str:
    out = io.StringIO()
    assert await asyncio.to_thread(behave.behave, argv, out) == 0
    return out.getvalue()


async def test_a_twin_is_served_changed_and_ended(capsys: pytest.CaptureFixture[str]) -> None:
    settings = ("--first-token", "lognormal:1ms,0.4", "--between-tokens", "0", "--every", "0.1", "--seed", "7")
    async with foreground("emulate", "openai", *settings, "--set", "models=m,n") as shown:
        origin = (await shown.until("answers at")).split()[3].removesuffix("/v1")
        await shown.until("curl")
        assert f"  export OPENAI_BASE_URL={origin}/v1" in shown.lines
        assert "  --first-token     lognormal:1ms,0.4" in shown.lines
        assert "  --fail            none" in shown.lines
        assert f"  busyhour behave {origin} --fail 100%:503" in shown.lines

        assert await ask(origin) == 200
        assert (await shown.until("served")).endswith("s  served 1 request: 1 ok")

        told = await changed(origin, "--fail", "100%:503", "--between-tokens", "2ms")
        assert told.startswith(f"openai at {origin} now behaves like this:\n")
        assert "  --between-tokens  2ms\n" in told
        assert "  --fail            100%:503\n" in told
        assert [await ask(origin), await ask(origin)] == [503, 503]

        with pytest.raises(SystemExit):
            await changed(origin, "--help")
        assert re.search(r"--between-tokens LATENCY\s+now 2ms", capsys.readouterr().out)

        told = await changed(origin)
        assert told.startswith(f"openai at {origin} behaves like this:\n")
        assert "it has served 3 requests: 2 http_503, 1 ok; it can be told to fail with hang, " in told

        assert "--fail            none" in await changed(origin, "--fail", "none")
        assert await ask(origin) == 200
        code, rest = await shown.end(signal.SIGTERM)
    assert code == 0
    assert rest.endswith("\nopenai has ended; it served 4 requests: 2 ok, 2 http_503\n")


async def test_a_twin_before_an_upstream_says_so() -> None:
    async with (
        emulators.OpenAI(models=["m"], first_token=Constant(0), between_tokens=Constant(0)).running({}) as real,
        foreground("emulate", "openai", "--set", f"upstream={real.url}", "--fail", "0:429") as shown,
    ):
        first = await shown.until("answers at")
        assert first.endswith(f"(Ctrl-C ends it), passes requests on to {real.url} and behaves like this:")
        await shown.until("curl")
        assert not any("--first-token" in line for line in shown.lines)
        assert await ask(first.split()[3].removesuffix("/v1")) == 200
        code, rest = await shown.end(signal.SIGTERM)
    assert (code, rest.endswith("it served 1 request: 1 ok\n")) == (0, True)


async def test_ctrl_c_is_an_orderly_end_too() -> None:
    async with foreground("emulate", "pinecone", "--query", "3ms") as shown:
        await shown.until("curl")
        assert any("Index(host=" in line for line in shown.lines)
        assert await shown.end(signal.SIGINT) == (0, "\n\npinecone has ended; it served 0 requests\n")


async def test_speech_that_the_twin_does_not_know_is_told() -> None:
    talk = codec("PCMU").encode(babble("Do you take walk-ins on bank holidays?", 8000))
    async with foreground("emulate", "deepgram", "--every", "0.1") as shown:
        origin = (await shown.until("answers at")).split()[3]
        await shown.until("curl")
        query = "model=nova-3&encoding=mulaw&sample_rate=8000&endpointing=300"
        async with (
            aiohttp.ClientSession(headers={"Authorization": "Token x"}) as session,
            session.ws_connect(f"{origin}/v1/listen?{query}") as socket,
        ):
            await socket.send_bytes(talk + codec("PCMU").silence * 50)
            assert " unknown speech" in await shown.until("served")
            told = await shown.until("does not know")
            assert told.startswith(f"{'':12}it has heard speech that it does not know: it knows by ear the utterances")


async def test_a_profile_is_replayed_and_flags_outrank_it(tmp_path: Path) -> None:
    profile = Profile(
        vendor="cartesia",
        learned="2026-11-20T10:00:00Z",
        upstream="https://api.cartesia.ai",
        requests=3,
        latencies={"first_audio": Empirical([70, 80, 90])},
        numbers={"realtime_factor": 6.5},
        outcomes={"http_429": 0.02},
    )
    path = tmp_path / "cartesia.json"
    profile.write(path)
    async with foreground("emulate", "cartesia", "--profile", str(path), "--fail", "3%:500") as shown:
        await shown.until("curl")
        assert "  --first-audio      empirical, 3 delays: p50 80 ms, p95 90 ms" in shown.lines
        assert "  --realtime-factor  6.5" in shown.lines
        assert [line.split()[1] for line in shown.lines if "--fail " in line and "behave" not in line] == ["3%:500"]


# ---------------------------------------------------------------- behave


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ([], "which twin? Give its URL first, like: busyhour behave http://"),
        (["--fail", "1%:429"], "which twin?"),
        (["127.0.0.1:8001"], "'127.0.0.1:8001' is no URL of a twin; give one like http://127.0.0.1:8001"),
        (["http://:x"], "is no URL of a twin"),
    ],
)
def test_what_is_no_twin_is_one_sentence(argv: Sequence[str], sentence: str) -> None:
    with pytest.raises(PlanError) as refused:
        behave.behave(argv, io.StringIO())
    assert sentence in str(refused.value)


def test_where_nobody_answers_is_one_sentence() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(ServiceError) as refused:
            behave.behave([f"http://127.0.0.1:{port}/v1"], io.StringIO())
    start = f"busyhour emulate VENDOR --port {port}"
    assert str(refused.value) == f"nobody answers at http://127.0.0.1:{port}; start a twin there: {start}"


async def test_where_something_else_answers_is_one_sentence() -> None:
    server = web.Server(lambda _: asyncio.sleep(0, web.Response(status=404, text="404: Not Found")))
    runner = web.ServerRunner(server)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        with pytest.raises(ServiceError) as refused:
            await changed(url)
        words = f"{url} answers 404: no twin of busyhour; give the URL that `busyhour emulate` printed"
        assert str(refused.value) == words
    finally:
        await runner.cleanup()


async def test_a_twin_refuses_what_it_cannot_do() -> None:
    async with emulators.OpenAI(name="brain").running({}) as endpoint:
        with pytest.raises(PlanError, match=r"^brain refuses this behaviour: outcome 'zero_audio' is unknown here"):
            await changed(endpoint.url, "--fail", "1%:zero_audio")
        with pytest.raises(PlanError, match=r"'notoken' is unknown here; possible are .*; did you mean no_token\?$"):
            await changed(endpoint.url, "--fail", "100%:notoken")
        with pytest.raises(PlanError, match="--first-token soon: no time"):
            await changed(endpoint.url, "--first-token", "soon")
        assert "--fail            none" in await changed(endpoint.url)


def test_counts_are_told_in_words() -> None:
    assert counted({}) == "0 requests"
    assert counted({"ok": 1}) == "1 request: 1 ok"
    assert counted({"http_429": 2, "ok": 40, "hang": 0}) == "42 requests: 40 ok, 2 http_429"
