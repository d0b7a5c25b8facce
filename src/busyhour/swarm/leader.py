"""Who leads workers on other machines: carries out the plan, merges their journals, and says when it is done.

Run as `python -m busyhour.swarm.leader SOCKET` by who relays (`relay`), which listens on that Unix socket.
"""

from __future__ import annotations

import socket
import sys
import traceback
from functools import partial
from pathlib import Path

from rich.console import Console

from busyhour.conduct import conduct
from busyhour.distributed import crew
from busyhour.distributed.hiring import parts_of
from busyhour.distributed.lines import LINE_BYTES_MAX, Message, decoded, encoded
from busyhour.distributed.merging import merged
from busyhour.distributed.worker import expected_in
from busyhour.errors import ProtocolError
from busyhour.planfile import load
from busyhour.swarm.relay import relayed


def main(argv: list[str]) -> int:
    with socket.socket(socket.AF_UNIX) as relay:
        relay.connect(argv[0])
        try:
            done: Message = {"stopped": _lead(relay, _first_line(relay)["lead"])}
        except BaseException as error:  # told to who relays, who tells the person
            expected = expected_in(error)
            if expected is None:
                traceback.print_exc()
            why = repr(error) if expected is None else str(expected)
            done = {"failed": why, "code": 70 if expected is None else expected.exit_code}
        relay.setblocking(True)  # the loop that is gone shared its state
        relay.sendall(encoded({"done": done}))
    return 0


def _lead(relay: socket.socket, what: Message) -> str | None:
    """Why the run was stopped, if it was."""
    file = load(Path(what["plan"]), what["options"])
    journal, seed, of = Path(what["journal"]), what["seed"], what["of"]
    crew.check(file.plan, of)
    parts = parts_of(journal, of)
    workers = crew.Crew(partial(relayed, file, through=relay, parts=parts, seed=seed), lead_ns=what["lead_ns"])
    with merged(journal, parts):
        return conduct(
            file,
            workers.divided(file.plan),
            journal=journal,
            seed=seed,
            console=Console(file=sys.stderr),
            title=file.path.stem,
        ).stopped


def _first_line(relay: socket.socket) -> Message:
    """Not a byte more than it: what follows is read by the loop."""
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = relay.recv(1)
        if not byte or len(line) > LINE_BYTES_MAX:
            raise ProtocolError("who relays has hung up before it said what to carry out")
        line += byte
    return decoded(bytes(line))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
