"""The proxy's admin API, judged by an unmodified Toxiproxy client (PyPI: toxiproxy-python)."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from toxiproxy import Toxiproxy
from toxiproxy.exceptions import InvalidToxic, NotFound, ProxyExists

PROXY = [sys.executable, "-m", "busyhour.faults.proxy"]


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture(scope="module")
def process() -> Iterator[Toxiproxy]:
    with subprocess.Popen(PROXY, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        url = running.stdout.readline().removeprefix("READY ").strip()
        client = Toxiproxy()
        client.update_api_consumer("127.0.0.1", int(url.rpartition(":")[2]))
        yield client
        running.terminate()


@pytest.fixture
def client(process: Toxiproxy) -> Toxiproxy:
    process.destroy_all()
    return process


def answers(listen: str) -> bool:
    """Whether something accepts a connection there."""
    host, port = listen.split(":")
    with closing(socket.socket()) as sock:
        sock.settimeout(60)
        return sock.connect_ex((host, int(port))) == 0


def test_it_runs_and_tells_its_version(client: Toxiproxy) -> None:
    assert client.running()
    assert b'"version"' in client.version()


def test_proxies_come_and_go(client: Toxiproxy, upstream: str) -> None:
    proxy = client.create(name="redis", upstream=upstream)
    assert (proxy.name, proxy.upstream, proxy.enabled) == ("redis", upstream, True)
    assert answers(proxy.listen)
    assert list(client.proxies()) == ["redis"]
    assert client.get_proxy("redis").listen == proxy.listen
    assert client.get_proxy("nobody") is None
    with pytest.raises(ProxyExists):
        client.create(name="redis", upstream=upstream)
    assert client.destroy(proxy)
    assert client.proxies() == {}
    assert not answers(proxy.listen)
    with pytest.raises(NotFound):
        proxy.destroy()


def test_down_and_up(client: Toxiproxy, upstream: str) -> None:
    proxy = client.create(name="redis", upstream=upstream)
    with proxy.down():
        assert not answers(proxy.listen)
        assert client.get_proxy("redis").enabled is False
    assert answers(proxy.listen)
    assert client.get_proxy("redis").enabled is True


def test_toxics_come_and_go(client: Toxiproxy, upstream: str) -> None:
    proxy = client.create(name="redis", upstream=upstream)
    proxy.add_toxic(type="latency", attributes={"latency": 100, "jitter": 10})
    proxy.add_toxic(type="slicer", name="cut", stream="upstream", toxicity=0.5, attributes={"average_size": 64})
    latency, cut = proxy.get_toxic("latency_downstream"), proxy.get_toxic("cut")
    assert (latency.type, latency.stream, latency.toxicity) == ("latency", "downstream", 1.0)
    assert latency.attributes == {"latency": 100, "jitter": 10}
    assert (cut.type, cut.stream, cut.toxicity) == ("slicer", "upstream", 0.5)
    assert cut.attributes == {"average_size": 64, "size_variation": 0, "delay": 0}
    assert proxy.destroy_toxic("cut")
    assert set(proxy.toxics()) == {"latency_downstream"}
    with pytest.raises(ProxyExists):
        proxy.add_toxic(type="latency")
    with pytest.raises(InvalidToxic):
        proxy.add_toxic(type="gremlin")
    with pytest.raises(InvalidToxic):
        proxy.add_toxic(type="bandwidth", stream="sideways")
    with pytest.raises(NotFound):
        proxy.destroy_toxic("cut")


def test_reset_takes_everything_back(client: Toxiproxy, upstream: str) -> None:
    proxy = client.create(name="redis", upstream=upstream, enabled=False)
    proxy.add_toxic(type="timeout", attributes={"timeout": 0})
    assert client.reset()
    assert proxy.toxics() == {}
    assert answers(proxy.listen)


def test_populate(client: Toxiproxy, upstream: str) -> None:
    told = [{"name": name, "upstream": upstream, "listen": "127.0.0.1:0"} for name in ("one", "two")]
    assert [proxy.name for proxy in client.populate(told)] == ["one", "two"]
    assert set(client.proxies()) == {"one", "two"}


def test_a_toxic_of_its_does_what_it_says(client: Toxiproxy) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        proxy = client.create(name="slow", upstream=f"127.0.0.1:{server.getsockname()[1]}")
        proxy.add_toxic(type="latency", attributes={"latency": 200})
        host, port = proxy.listen.split(":")
        with closing(socket.create_connection((host, int(port)))) as near, closing(server.accept()[0]) as far:
            began = time.monotonic()
            far.sendall(b"hello")
            assert near.recv(5) == b"hello"
            assert time.monotonic() - began > 0.15
