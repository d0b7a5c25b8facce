"""A server of a few lines that leaks: `python leaky.py [forks]`, at PORT; each GET of /call is one call.

What the tests know of it they find by the words in its comments.
"""

import asyncio
import json
import os
import signal
import sys

KEPT: list[object] = []
PARSED: list[object] = []
ONCE: list[object] = []
TEXT = json.dumps(["a word of a document, which is parsed anew each time " * 4] * 20 + list(range(1000, 1100)))


def call(number: int) -> None:
    KEPT.append([f"call {number} said {word}" * 16 for word in range(50)])  # leaks about 15 KB
    PARSED.append(json.loads(TEXT))  # leaks in a library
    if len(KEPT) == 8:
        ONCE.append(bytearray(400_000))  # is kept once
    bytearray(300_000)


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    line = await reader.readline()
    if line.startswith(b"GET /call"):
        call(len(KEPT))
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    writer.close()


async def main() -> None:
    server = await asyncio.start_server(answer, "127.0.0.1", int(os.environ["PORT"]))
    await server.serve_forever()


if __name__ == "__main__":
    if "forks" in sys.argv[1:] and (worker := os.fork()):
        signal.signal(signal.SIGTERM, lambda number, _: os.kill(worker, number))
        os.waitpid(worker, 0)
    else:
        asyncio.run(main())
