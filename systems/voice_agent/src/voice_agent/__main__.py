"""`python -m voice_agent`: read the settings, serve, and stop in good order on SIGTERM."""

from __future__ import annotations

import asyncio
import os
import sys
from types import FrameType

import uvicorn
from fastapi import FastAPI

from voice_agent import log
from voice_agent.app import create_app
from voice_agent.settings import Settings, SettingsError
from voice_agent.vad import SileroMissing

EX_USAGE = 64  # sysexits.h
_CLOSING_SHARE = 0.3  # of the time for a shutdown: for uvicorn to close its connections


class _Server(uvicorn.Server):
    """uvicorn would close every media stream at the signal, in the middle of a word: let us do it in good order."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.stopping = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._loop.call_soon_threadsafe(self.stopping.set)


def main() -> int:
    try:
        settings = Settings.from_environment(os.environ)
        log.configure(settings.log_level, settings.error_log, settings.error_log_bytes)
        app = create_app(settings)
    except (SettingsError, SileroMissing, log.Unwritable) as error:
        sys.stderr.write("".join(f"voice_agent: {problem}\n" for problem in str(error).splitlines()))
        return EX_USAGE
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,  # ours
        access_log=False,  # its lines would tell the tokens of media streams
        ws_per_message_deflate=False,  # costs more than the sound is worth
        ws_ping_interval=None,  # sound flows 50 times a second: its absence is noticed sooner
        ws_max_size=256 * 1024,
        timeout_graceful_shutdown=max(1, int(_CLOSING_SHARE * settings.shutdown_seconds)),
    )
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:  # uvloop where there is one
        return runner.run(_serve(app, config, settings))


async def _serve(app: FastAPI, config: uvicorn.Config, settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; then refuse new calls, finish the open ones, and only then close the door."""
    server = _Server(config)
    serving = asyncio.create_task(server.serve())
    stopping = asyncio.create_task(server.stopping.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if stopping.done() and server.started:
        await app.state.switchboard.drain((1 - _CLOSING_SHARE) * settings.shutdown_seconds)
    server.should_exit = True
    stopping.cancel()
    await serving
    return 0 if server.started else 1


if __name__ == "__main__":
    sys.exit(main())
