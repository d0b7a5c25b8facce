"""The recording proxy: it changes nothing, learns what a twin was told, and the twin replays it.

The clients are the vendors' own SDKs, unmodified, pointed at the proxy.
"""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import sys
import warnings
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import aiohttp
import cartesia
import openai
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # the SDK uses the legacy client of websockets
    from deepgram import AsyncDeepgramClient
    from deepgram.environment import DeepgramClientEnvironment
    from deepgram.listen.v1.types.listen_v1results import ListenV1Results

from tests.test_learn_proxy import Vendor, between, proxied

from busyhour.cli import main
from busyhour.clock import SystemClock
from busyhour.emulators import Cartesia, Constant, Deepgram, Empirical, LogNormal, OpenAI
from busyhour.emulators.profile import Profile, learned, read
from busyhour.errors import ServiceError
from busyhour.learn.lessons import Lessons
from busyhour.learn.proxy import Upstream, check_reachable
from busyhour.learn.stt import DeepgramStudent
from busyhour.learn.tts import CartesiaStudent
from busyhour.media.codec import codec
from busyhour.media.utterances import utterance
from busyhour.model import MS, SECOND

TALK: Any = {"model": "gpt-4.1", "messages": [{"role": "user", "content": "When do you open on Saturday?"}]}
CLOCK = SystemClock()
MOMENT_MS = 20
ROUNDED_MS = 0.001  # a profile is written to a microsecond
RAW: Any = {"container": "raw", "encoding": "pcm_s16le", "sample_rate": 8000}


@asynccontextmanager
async def learning(
    *argv: str, env: Mapping[str, str] | None = None
) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """`busyhour learn openai` in a process of its own, and where it answers."""
    command = (sys.executable, "-m", "busyhour", "learn", "openai", *argv)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe, env=env)
    try:
        assert process.stdout is not None
        first = await asyncio.wait_for(process.stdout.readline(), 60)
        yield process, first.decode().split(" at ")[1].split()[0]
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def quantiles(values: Sequence[float]) -> list[float]:
    ordered = sorted(values)
    return [ordered[int(q * len(ordered))] for q in (0.1, 0.25, 0.5, 0.75, 0.9)]


def profile_of(lessons: Lessons, vendor: str) -> Profile:
    profile = lessons.profile(vendor=vendor, upstream="http://127.0.0.1:1", learned="2026-11-20T10:00:00Z")
    assert profile is not None
    return profile


def delays(profile: Profile, name: str) -> Sequence[float]:
    latency = profile.latencies[name]
    assert isinstance(latency, Empirical)
    return latency.ms


# ---------------------------------------------------------------- learn and replay


async def chat(url: str, count: int) -> tuple[list[str], list[float]]:
    """So many streamed replies, ten at once; what went wrong by the name of the SDK's error, and the ms to the end of
    each that did not."""
    turns, failures, took_ms = asyncio.Semaphore(10), list[str](), list[float]()

    async def one(client: openai.AsyncOpenAI) -> None:
        async with turns:
            asked_ns = CLOCK.now_ns()
            try:
                stream = await client.chat.completions.create(stream=True, **TALK)
                assert len([chunk async for chunk in stream]) > 5
                took_ms.append((CLOCK.now_ns() - asked_ns) / MS)
            except openai.OpenAIError as failure:
                failures.append(type(failure).__name__)

    async with openai.AsyncOpenAI(base_url=url, api_key="sk-secret", max_retries=0, timeout=60) as client:
        await asyncio.gather(*(one(client) for _ in range(count)))
    return failures, took_ms


async def first_tokens(twin: OpenAI, endpoint: Any) -> list[float]:
    rows = [row for row in await twin.witnessed(endpoint) if row.outcome == "ok"]
    return [(row.detail["first_token_ns"] - row.began_ns) / MS for row in rows]  # type: ignore[operator]


async def test_a_language_model_is_learned_and_replayed(tmp_path: Path) -> None:
    path = tmp_path / "openai.json"
    original = OpenAI(first_token=LogNormal(60, 0.5), between_tokens=Constant(3), outcomes={"http_429": 0.1}, seed=5)
    async with original.running({}) as endpoint:
        # In a process of its own: the SDK is busy in this one, and what is late here would be learned as the vendor's.
        arguments = ("--upstream", endpoint.url, "--profile", str(path), "--requests", "150")
        async with learning(*arguments) as (process, url):
            failures, took_ms = await chat(url, 150)
            await asyncio.wait_for(process.communicate(), 60)
        truth = await first_tokens(original, endpoint)
    assert set(failures) == {"RateLimitError"}
    profile = read(path, "openai")
    assert profile.requests == 150
    assert profile.measured["first_token"] == 150 - len(failures) == len(truth)
    assert profile.outcomes == {"http_429": pytest.approx(len(failures) / 150, abs=1e-6)}
    # The proxy notes a request when it has gone, and the token a moment after the twin: how long a moment is says
    # something of the machine (the twin may have the request first), but each took it less long than the client.
    seen = sorted(delays(profile, "first_token"))
    for least, ms, most in zip(sorted(truth), seen, sorted(took_ms), strict=True):
        assert least - MOMENT_MS <= ms <= most + ROUNDED_MS
    # At least half of the gaps are as long as their median, and all of them together are no longer than the answers.
    gaps = sorted(delays(profile, "between_tokens"))
    assert gaps[len(gaps) // 2] <= 2 * sum(took_ms) / profile.measured["between_tokens"]
    assert gaps[-1] >= 2

    replay = learned(OpenAI, path, seed=6, outcomes={})
    async with replay.running({}) as endpoint:
        failures, took_ms = await chat(endpoint.url, 150)
        assert failures == []
        replayed = await first_tokens(replay, endpoint)
    # Never early, and of the same distribution; late by what the machine is late.
    for ms, again, most in zip(quantiles(seen), quantiles(replayed), quantiles(took_ms), strict=True):
        assert 0.7 * ms - 5 <= again <= max(1.3 * ms + 5, most)


async def test_a_synthesiser_is_learned() -> None:
    lessons = Lessons()
    twin = Cartesia(first_audio=LogNormal(50, 0.3), realtime_factor=8, seed=2)
    async with twin.running({}) as endpoint, proxied(endpoint.url, CartesiaStudent(lessons)) as origin:
        sockets = origin.replace("http", "ws")
        async with (
            cartesia.AsyncCartesia(api_key="k", base_url=origin, websocket_base_url=sockets, max_retries=0) as client,
            client.tts.websocket_connect() as connection,
        ):
            waited_ms, paces = list[float](), list[float]()

            async def speak() -> int:
                asked_ns, sizes, stamps = CLOCK.now_ns(), list[int](), list[int]()
                speech = connection.context(model_id="sonic-3", voice="v", output_format=RAW, timeout=60)
                await speech.push("There is free parking right behind the building.")
                await speech.no_more_inputs()
                async for event in speech.receive():
                    if audio := getattr(event, "audio", None):
                        stamps.append(CLOCK.now_ns())
                        sizes.append(len(audio))
                waited_ms.append((stamps[0] - asked_ns) / MS)
                paces.append(sum(sizes[1:]) / 16_000 / ((stamps[-1] - stamps[0]) / SECOND))
                return sum(sizes)

            sizes = await asyncio.gather(*(speak() for _ in range(30)))
            asked_ns = CLOCK.now_ns()
            audio = await client.tts.generate(
                model_id="sonic-3", transcript="Good bye.", voice={"id": "v"}, output_format=RAW
            )
            assert len(await audio.read()) > 1000
            waited_ms.append((CLOCK.now_ns() - asked_ns) / MS)
        rows = [row for row in await twin.witnessed(endpoint) if row.kind == "tts"]
    assert len(set(sizes)) == 1
    assert sizes[0] > 16_000
    profile = profile_of(lessons, "cartesia")
    truth = [(row.detail["first_audio_ns"] - row.began_ns) / MS for row in rows]  # type: ignore[operator]
    assert profile.measured["first_audio"] == 31 == len(truth) == lessons.finished
    # The proxy stands between the two: each speech took it longer than the twin, but for the moment in which it notes
    # that it has passed on the request, and less long than the client. What holds of pairs holds of the sorted lists.
    seen = sorted(delays(profile, "first_audio"))
    for least, ms, most in zip(sorted(truth), seen, sorted(waited_ms), strict=True):
        assert least - MOMENT_MS <= ms <= most + ROUNDED_MS
    # So it is with its pace: whoever is slow to read sees it slower, or at once what has piled up.
    assert 0.75 * min(8, *paces) <= profile.numbers["realtime_factor"] <= 1.25 * max(8, *paces)
    assert profile.outcomes == {}


# The SDK loads websockets' legacy client, which says so, when it is first used.
@pytest.mark.filterwarnings("ignore:.*websockets.*:DeprecationWarning")
async def test_a_recogniser_is_learned() -> None:
    lessons = Lessons()
    twin = Deepgram(final=Constant(120), interim=Constant(60))
    mulaw, silence = codec("PCMU"), codec("PCMU").silence
    octets = silence * 5 + mulaw.encode(utterance("hours.saturday", 8000).samples) + silence * 40
    asked: Any = {"model": "nova-3", "encoding": "mulaw", "sample_rate": 8000, "interim_results": "true"}
    async with twin.running({}) as endpoint, proxied(endpoint.url, DeepgramStudent(lessons)) as origin:
        sockets = origin.replace("http", "ws")
        here = DeepgramClientEnvironment(base=origin, production=sockets, agent=sockets, agent_rest=origin)
        client = AsyncDeepgramClient(api_key="dg-x", environment=here)
        async with client.listen.v1.connect(**asked, endpointing=300) as listening_:

            async def talk() -> None:
                loop = asyncio.get_running_loop()
                began = loop.time()
                for number, at in enumerate(range(0, len(octets), 160)):
                    await asyncio.sleep(began + number * 0.02 - loop.time())
                    await listening_.send_media(octets[at : at + 160])
                await listening_.send_close_stream()

            talking = asyncio.create_task(talk())
            async with asyncio.timeout(60):
                results = [message async for message in listening_ if isinstance(message, ListenV1Results)]
            await talking
    final = next(result for result in results if result.speech_final)
    assert final.channel.alternatives[0].transcript == "can you tell me what time you open on saturday"
    profile = profile_of(lessons, "deepgram")
    (delay,) = delays(profile, "final")
    assert delay == pytest.approx(120, abs=60)  # audio moves in steps of 20 ms, and a pause is felt to 50
    # A word is recognised some time after its sound has ended: that is the vendor's, too.
    assert profile.measured["interim"] >= 3
    assert 60 <= quantiles(delays(profile, "interim"))[2] <= 260
    assert lessons.finished == 1


# ---------------------------------------------------------------- the command


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["opnai", "--upstream", "http://127.0.0.1:1"], 64, "there is no twin of 'opnai'; known are openai"),
        (["openai", "--upstream", "api.openai.com"], 64, "--upstream api.openai.com: no URL of a vendor"),
        (["openai", "--upstream", "http://u:k@127.0.0.1:1"], 64, "without a name, a key or a query in it"),
        (["openai", "--upstream", "http://127.0.0.1:1", "--port", "-1"], 64, "--port -1: a port is from 0"),
        (["openai", "--upstream", "http://127.0.0.1:1", "--requests", "0"], 64, "--requests 0: give a number above 0"),
        (["openai", "--upstream", "http://127.0.0.1:1", "--seconds", "nan"], 64, "--seconds nan: give a number above"),
        (["openai", "--upstream", "http://127.0.0.1:1"], 69, "the upstream http://127.0.0.1:1 cannot be reached"),
    ],
)
def test_what_cannot_be_learned_is_one_sentence(
    arguments: list[str], code: int, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["learn", *arguments, "--profile", str(tmp_path / "p.json")]) == code
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


async def test_the_command_learns_until_it_has_seen_enough(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    twin = OpenAI(first_token=Constant(20), between_tokens=Constant(1))
    async with (
        twin.running({}) as endpoint,
        learning("--upstream", endpoint.url, "--profile", str(path), "--requests", "5") as (process, url),
    ):
        assert url.endswith("/v1")
        failures, took_ms = await chat(url, 5)
        assert failures == []
        out, err = await asyncio.wait_for(process.communicate(), 60)
    assert (process.returncode, err) == (0, b"")
    assert f"export OPENAI_BASE_URL={url}\n".encode() in out
    assert f"{path}: 5 seen: between_tokens p50 ".encode() in out
    assert f"replay it: busyhour emulate openai --profile {path}\n".encode() in out
    assert b"sk-secret" not in out + path.read_bytes()
    assert b"Saturday" not in out + path.read_bytes()
    profile = read(path, "openai")
    assert profile.upstream == endpoint.url.removesuffix("/v1")
    assert 19 <= delays(profile, "first_token")[2] <= max(20, *took_ms)


async def test_the_command_ends_when_told_and_says_if_nothing_was_learned(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    async with between() as (vendor, origin, session), learning("--upstream", origin, "--profile", str(path)) as told:
        process, url = told
        async with session.get(f"{url}/models") as answer:
            assert answer.status == 207
        process.send_signal(signal.SIGINT)
        out, err = await asyncio.wait_for(process.communicate(), 60)
        assert vendor.seen[-1][1] == "/v1/models"
    assert (process.returncode, err) == (2, b"")
    assert b"nothing was learned: no request came that openai's profile is made of" in out
    assert not path.exists()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A key and a certificate of one's own for 127.0.0.1, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    address = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(address, critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = tmp_path / "certificate.pem"
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


async def test_an_upstream_behind_tls_must_be_who_it_says(certificate: Path, tmp_path: Path) -> None:
    vendor, app = Vendor(), web.Application()
    app.router.add_route("*", "/{rest:.*}", vendor.handle)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        upstream = f"https://127.0.0.1:{runner.addresses[0][1]}"
        with pytest.raises(ServiceError, match="cannot be reached: TLS failed: self-signed certificate; check"):
            await check_reachable(Upstream.parse(upstream, ""))
        trusting = {**os.environ, "SSL_CERT_FILE": str(certificate)}
        arguments = ("--upstream", upstream, "--profile", str(tmp_path / "p.json"))
        async with learning(*arguments, env=trusting) as (_, url), aiohttp.ClientSession() as session:
            async with session.get(f"{url}/models") as answer:
                assert (answer.status, await answer.text()) == (207, "hello")
            async with session.ws_connect(f"{url}/s") as ws:
                await ws.send_str("over tls")
                assert (await ws.receive()).data == "OVER TLS"
    finally:
        await runner.cleanup()


async def test_what_stands_in_the_way_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with between() as (_, origin, _session):
        port = origin.rpartition(":")[2]
        upstream = ["learn", "openai", "--upstream", origin]
        there = [*upstream, "--profile", str(tmp_path / "p.json"), "--port", port]
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", "busyhour", *there, stderr=pipe)
        _, err = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 69
        assert err.decode().startswith(f"busyhour: port {port} of 127.0.0.1 cannot be had: ")
        assert await asyncio.to_thread(main, [*upstream, "--profile", str(tmp_path / "no" / "p.json")]) == 64
        assert "no file can be made there; give a file in a folder that exists" in capsys.readouterr().err
