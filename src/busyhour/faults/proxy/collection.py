"""The proxies of one process: Toxiproxy's resources, with their listening sockets and their connections."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import socket
from collections.abc import Mapping
from typing import Any

from busyhour.faults.proxy.link import Link, Side
from busyhour.faults.proxy.refusals import RefusalCounter
from busyhour.faults.proxy.toxic import STREAMS, Form, Refusal, Stream, Toxic, bad_body
from busyhour.model import JSON
from busyhour.processes import in_words
from busyhour.timers import Alarms

BACKLOG = 1024
DIAL_SECONDS = 10.0
PROXIES_AT_MOST = 1000
TOXICS_AT_MOST = 100
_FIELDS = {"name": str, "listen": str, "upstream": str, "enabled": bool}


class Address:
    """A loopback address: the harm stays on this machine."""

    def __init__(self, text: str, what: str) -> None:
        """Raises Refusal."""
        host, colon, port = text.rpartition(":")
        if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise bad_body(f"{what} is {text!r}; it must be host:port, as in 127.0.0.1:8080")
        name = host.strip("[]") or "127.0.0.1"
        try:
            address = ipaddress.ip_address("127.0.0.1" if name == "localhost" else name)
        except ValueError:
            raise bad_body(f"{what} is {text!r}; its host must be localhost or a loopback address") from None
        if not address.is_loopback:
            raise bad_body(f"{what} is {text!r}, which is not on this machine's loopback; use 127.0.0.1")
        self.host, self.port = str(address), int(port)
        self.family = socket.AF_INET6 if address.version == 6 else socket.AF_INET

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if self.family is socket.AF_INET6 else f"{self.host}:{self.port}"


class Proxied:
    """One proxy: where it listens, whom it speaks to, and its toxics."""

    def __init__(self, *, name: str, listen: Address, upstream: Address, alarms: Alarms, seed: int) -> None:
        self.name = name
        self.enabled = False
        self.accepted = 0
        self.unreachable = 0
        self.last_problem = ""
        self.cut_off = 0  # connections that were open when it was taken down
        self._listen, self._upstream = listen, upstream
        self._alarms = alarms
        self._seed = seed
        self._toxics: list[Toxic] = []
        self._links: set[Link] = set()
        self._dialling: set[asyncio.Task[None]] = set()
        self._bytes: dict[Stream, int] = dict.fromkeys(STREAMS, 0)  # of connections that are over
        self._server: asyncio.Server | None = None
        self._placeholder: socket.socket | None = None
        self._refusals: RefusalCounter | None = None
        self._refused = 0  # in earlier times of being down
        self._counts_refusals = True

    # ------------------------------------------------------------ up and down

    async def reserve(self) -> None:
        """Take the port, and refuse connections to it. Raises Refusal."""
        if self._placeholder is None and self._server is None:
            self._placeholder = await self._bound()
        if self._placeholder is not None and self._refusals is None:
            try:
                self._refusals = RefusalCounter(self._listen.port)
            except OSError:  # not permitted, as a rule
                self._counts_refusals = False

    async def start(self) -> None:
        """Listen. Raises Refusal when the port cannot be had."""
        if self.enabled:
            return
        self._give_back()
        listening = await self._bound()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Side(self._accept), sock=listening, backlog=BACKLOG)
        self.enabled = True

    async def stop(self) -> None:
        """Refuse connections, and drop those that are open; the port stays ours."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.enabled = False
        self.cut_off += len(self._links)
        for task in self._dialling:
            task.cancel()
        for link in list(self._links):
            link.abort()
        await self.reserve()

    async def close(self) -> None:
        """Stop, and give the port back."""
        await self.stop()
        self._give_back()

    async def update(self, form: Mapping[str, Any]) -> None:
        """Toxiproxy's update: another address drops all connections. Raises Refusal."""
        listen = Address(form["listen"], "listen") if "listen" in form else self._listen
        upstream = _upstream(form["upstream"]) if "upstream" in form else self._upstream
        enabled = form.get("enabled", self.enabled)
        if str(listen) != str(self._listen) or str(upstream) != str(self._upstream):
            await self.close()
            self._listen, self._upstream = listen, upstream
            await self.reserve()
        if enabled and not self.enabled:
            await self.start()
        elif not enabled and self.enabled:
            await self.stop()

    # ------------------------------------------------------------ toxics

    def toxics(self) -> list[Toxic]:
        """Upstream ones first, then in the order in which they were added: the order in which they act."""
        return sorted(self._toxics, key=lambda toxic: STREAMS.index(toxic.form.stream))

    def toxic(self, name: str) -> Toxic:
        """Raises Refusal when there is none of that name."""
        for toxic in self._toxics:
            if toxic.form.name == name:
                return toxic
        raise Refusal(404, "toxic not found")

    def add(self, form: object) -> Toxic:
        parsed = Form.parse(form, self._seed)
        if any(toxic.form.name == parsed.name for toxic in self._toxics):
            raise Refusal(409, "toxic already exists")
        if len(self._toxics) >= TOXICS_AT_MOST:
            raise bad_body(f"there are {TOXICS_AT_MOST} toxics already; remove some first")
        toxic = Toxic(parsed)
        self._toxics.append(toxic)
        for link in list(self._links):
            link.install(toxic)
        return toxic

    def change(self, name: str, form: object) -> Toxic:
        toxic = self.toxic(name)
        toxic.form = toxic.form.changed(form)
        for link in list(self._links):
            link.change(toxic)
        return toxic

    def remove(self, name: str) -> None:
        """When it returns, no connection is harmed by it any more."""
        toxic = self.toxic(name)
        self._toxics.remove(toxic)
        for link in list(self._links):
            link.uninstall(toxic)

    def clear(self) -> None:
        for toxic in list(self._toxics):
            self.remove(toxic.form.name)

    # ------------------------------------------------------------ what it tells

    @property
    def refused(self) -> int | None:
        """Connections refused while it was down; None where they cannot be counted."""
        if not self._counts_refusals:
            return None
        return self._refused + (self._refusals.count if self._refusals is not None else 0)

    @property
    def upstream(self) -> str:
        return str(self._upstream)

    @property
    def listen(self) -> str:
        return str(self._listen)

    def received_bytes(self, stream: Stream) -> int:
        return self._bytes[stream] + sum(link.pipes[stream].count for link in self._links)

    def as_json(self) -> dict[str, JSON]:
        return {
            "name": self.name,
            "listen": self.listen,
            "upstream": self.upstream,
            "enabled": self.enabled,
            "toxics": [toxic.form.as_json() for toxic in self.toxics()],
        }

    def effects(self) -> dict[str, JSON]:
        """What passed, and what each toxic did to it: the proof of a fault."""
        return {
            "accepted": self.accepted,
            "open": len(self._links),
            "cut_off": self.cut_off,
            "refused": self.refused,
            "unreachable": self.unreachable,
            "last_problem": self.last_problem,
            "bytes": {stream: self.received_bytes(stream) for stream in STREAMS},
            "toxics": {toxic.form.name: toxic.effect.as_json() for toxic in self._toxics},
        }

    # ------------------------------------------------------------ connections

    def _accept(self, client: Side) -> None:
        self.accepted += 1
        task = asyncio.get_running_loop().create_task(self._dial(client, self.accepted))
        self._dialling.add(task)
        task.add_done_callback(self._dialling.discard)

    async def _dial(self, client: Side, number: int) -> None:
        def join(upstream: Side) -> None:
            # In the callback itself: an upstream that speaks first may do so before this task goes on.
            link = Link(number=number, alarms=self._alarms, client=client, upstream=upstream, over=self._over)
            self._links.add(link)
            for toxic in self._toxics:
                link.install(toxic)
            client.begin()

        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(DIAL_SECONDS):
                await loop.create_connection(lambda: Side(join), self._upstream.host, self._upstream.port)
        except asyncio.CancelledError:
            client.abandon()
            raise
        except (OSError, TimeoutError) as problem:
            self.unreachable += 1
            self.last_problem = f"the upstream {self._upstream} of {self.name} cannot be reached: {in_words(problem)}"
            client.reset()

    def _over(self, link: Link) -> None:
        if link in self._links:
            self._links.remove(link)
            for stream in STREAMS:
                self._bytes[stream] += link.pipes[stream].count

    def _give_back(self) -> None:
        """The port that was held while nobody listened on it."""
        if self._refusals is not None:
            self._refused += self._refusals.count
            self._refusals.close()
            self._refusals = None
        if self._placeholder is not None:
            self._placeholder.close()
            self._placeholder = None

    async def _bound(self) -> socket.socket:
        """A socket on our address. Raises Refusal with the words that Toxiproxy has for it."""
        tries = 100  # a socket that was closed just now is given back in the loop's next turn
        while True:
            tries -= 1
            bound = socket.socket(self._listen.family, socket.SOCK_STREAM)
            try:
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                bound.bind((self._listen.host, self._listen.port))
            except OSError as problem:
                bound.close()
                if problem.errno != errno.EADDRINUSE or tries == 0:
                    words = os.strerror(problem.errno or 0).lower()
                    raise Refusal(500, f"listen tcp {self._listen}: bind: {words}") from None
                await asyncio.sleep(0.001)
                continue
            bound.setblocking(False)
            self._listen.port = bound.getsockname()[1]
            return bound


class Collection:
    """All proxies of the process, by name."""

    def __init__(self, alarms: Alarms, seed: int = 0) -> None:
        self.proxies: dict[str, Proxied] = {}
        self._alarms = alarms
        self._seed = seed

    def get(self, name: str) -> Proxied:
        """Raises Refusal when there is none of that name."""
        if name not in self.proxies:
            raise Refusal(404, "proxy not found")
        return self.proxies[name]

    async def create(self, form: object) -> Proxied:
        given = checked(form)
        for required in ("name", "upstream"):
            if not given.get(required):
                raise Refusal(400, f"missing required field: {required}")
        if given["name"] in self.proxies:
            raise Refusal(409, "proxy already exists")
        if len(self.proxies) >= PROXIES_AT_MOST:
            raise bad_body(f"there are {PROXIES_AT_MOST} proxies already; delete some first")
        proxied = self._made(given)
        await proxied.reserve()
        if given.get("enabled", True):
            await proxied.start()
        self.proxies[proxied.name] = proxied
        return proxied

    async def populate(self, forms: object) -> list[Proxied]:
        """Create or replace those of a list; one whose addresses are the same is left alone."""
        if not isinstance(forms, list):
            raise bad_body(f"it must be a JSON array of proxies, not {type(forms).__name__}")
        given = [checked(form) for form in forms]
        for number, form in enumerate(given, start=1):
            for required in ("name", "upstream"):
                if not form.get(required):
                    raise Refusal(400, f"missing required field: {required} at proxy {number}")
            self._made(form)
        populated: list[Proxied] = []
        for form in given:
            existing = self.proxies.get(form["name"])
            if existing is not None and _same_place(existing, form):
                populated.append(existing)
                continue
            if existing is not None:
                await self.delete(existing.name)
            populated.append(await self.create(form))
        return populated

    async def delete(self, name: str) -> None:
        await self.get(name).close()
        del self.proxies[name]

    async def reset(self) -> None:
        """All enabled, no toxics."""
        for proxied in self.proxies.values():
            proxied.clear()
            await proxied.start()

    async def close(self) -> None:
        for name in list(self.proxies):
            await self.delete(name)

    def _made(self, form: Mapping[str, Any]) -> Proxied:
        return Proxied(
            name=form["name"],
            listen=Address(form.get("listen") or "127.0.0.1:0", "listen"),
            upstream=_upstream(form["upstream"]),
            alarms=self._alarms,
            seed=self._seed,
        )


def checked(form: object) -> Mapping[str, Any]:
    """The fields of a proxy, with the types they must have; others are ignored, as Toxiproxy does. Raises Refusal."""
    if not isinstance(form, Mapping):
        raise bad_body(f"it must be a JSON object, not {type(form).__name__}")
    for name, kind in _FIELDS.items():
        if name in form and not isinstance(form[name], kind):
            raise bad_body(f"{name} is {form[name]!r}; it must be of type {kind.__name__}")
    return {name: form[name] for name in _FIELDS if name in form}


def _upstream(text: str) -> Address:
    address = Address(text, "upstream")
    if address.port == 0:
        raise bad_body(f"upstream is {text!r}; it needs a port")
    return address


def _same_place(existing: Proxied, form: Mapping[str, Any]) -> bool:
    listen = Address(form.get("listen") or existing.listen, "listen")
    return str(listen) == existing.listen and str(_upstream(form["upstream"])) == existing.upstream
