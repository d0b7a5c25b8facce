"""A phase of a bulk workload without an engine, and what it left behind as a run."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from busyhour.arrivals import Burst
from busyhour.bulk import Bulk, Counts, Stretch
from busyhour.clock import SystemClock
from busyhour.model import Arrivals, Endpoint, Mark, Operation, Sample
from busyhour.testing import MemoryRun

PHASE = "load"


@dataclass(frozen=True)
class Flooded:
    counts: Counts
    run: MemoryRun

    @property
    def outcomes(self) -> list[str]:
        return [operation.outcome for operation in self.run.operations("request", PHASE)]

    @property
    def total(self) -> int:
        return sum(sample.count for sample in self.run.samples("requests", "latency_ms", PHASE))


async def flooded(
    workload: Bulk,
    url: str,
    arrivals: Arrivals | None = None,
    *,
    at_once: int = 1000,
    drain_seconds: float = 5,
    until: Callable[[Counts], bool] | None = None,
) -> Flooded:
    """Perform it whole, or cancel it as soon as `until` holds."""
    clock, counts = SystemClock(), Counts()
    written: list[Operation | Sample | Mark] = [Mark(clock.now_ns(), "phase.began", PHASE)]
    stretch = Stretch(
        phase=PHASE,
        arrivals=arrivals or Burst(1),
        at_once=at_once,
        drain_seconds=drain_seconds,
        began_ns=clock.now_ns(),
        clock=clock,
        target=Endpoint(url),
        write=written.append,
        counts=counts,
    )
    task = asyncio.ensure_future(workload.perform_all(stretch))
    while until is not None and not until(counts) and not task.done():
        await clock.sleep_until(clock.now_ns() + 1_000_000)
    if until is not None:
        task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        assert until is not None
    written.append(Mark(clock.now_ns(), "phase.ended", PHASE))
    operations = [entry for entry in written if isinstance(entry, Operation)]
    samples = [entry for entry in written if isinstance(entry, Sample)]
    marks = [entry for entry in written if isinstance(entry, Mark)]
    return Flooded(counts, MemoryRun(operations, samples, marks))


class Peer:
    """A connection as a server of raw bytes has it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def request(self) -> bytes:
        """The head of the next request and, by its Content-Length, its body; b"" at the end."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return b""
        length = [line.partition(b":")[2] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")]
        return head + (await self.reader.readexactly(int(length[0])) if length else b"")

    def reset(self) -> None:
        """End it with a RST."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


@asynccontextmanager
async def raw_server(talk: Callable[[Peer], Awaitable[None]], tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """`talk` has every connection; its end closes it. Yields the URL."""
    talking: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        talking.add(task)
        try:
            await talk(Peer(reader, writer))
        except asyncio.CancelledError:  # the server is stopping
            return
        finally:
            writer.close()
            talking.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    finally:
        server.close()
        for task in list(talking):
            task.cancel()
        await asyncio.gather(*talking, return_exceptions=True)
        await server.wait_closed()


def certificate(folder: Path, name: str = "127.0.0.1") -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context with a fresh certificate, and that of a client who trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = folder / "server.pem"
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pem.write_bytes(made.public_bytes(serialization.Encoding.PEM) + secret)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    return server, ssl.create_default_context(cadata=made.public_bytes(serialization.Encoding.PEM).decode())
