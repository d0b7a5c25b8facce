"""One structured line per event: JSON on the standard error stream, the call's id in every line of a call.

What went wrong (a vendor's failure, a failover, a breaker's turn, a fallback) is a line of a log of its own besides, if
ERROR_LOG names a file: rotated, so that it is never larger than twice ERROR_LOG_BYTES.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from logging.handlers import RotatingFileHandler

Value = str | int | float | bool | None | Mapping[str, str]

_LOGGER = logging.getLogger("voice_agent")
_TROUBLES = logging.getLogger("voice_agent.troubles")  # its lines go to _LOGGER's handlers too


class Unwritable(Exception):
    """The error log cannot be opened; the message says why."""


@dataclass(frozen=True, slots=True)
class Log:
    """Writes events; `bound` gives one that adds its fields to each line."""

    fields: Mapping[str, Value] = field(default_factory=dict)

    def bound(self, **fields: Value) -> Log:
        return Log({**self.fields, **fields})

    def info(self, event: str, **fields: Value) -> None:
        _LOGGER.info(event, extra={"fields": {**self.fields, **fields}})

    def warning(self, event: str, **fields: Value) -> None:
        _LOGGER.warning(event, extra={"fields": {**self.fields, **fields}})

    def trouble(self, event: str, **fields: Value) -> None:
        """A warning that is a row of the error log: "vendor failed", "failover", "breaker" or "fallback"."""
        _TROUBLES.warning(event, extra={"fields": {**self.fields, **fields}})

    def bug(self, event: str, error: BaseException) -> None:
        """A failure that no one foresaw, with its traceback."""
        _TROUBLES.error(event, exc_info=error, extra={"fields": dict(self.fields)})


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Value] = {
            "at": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def configure(level: str, error_log: str = "", error_log_bytes: int = 0) -> None:
    """Send our lines, and the server's warnings, to the standard error stream, and what went wrong to a file as well.

    Raises Unwritable.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonLines())
    handler.setLevel(level)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    _LOGGER.setLevel(level)
    for old in list(_TROUBLES.handlers):
        _TROUBLES.removeHandler(old)
        old.close()
    if error_log:
        try:
            rows = RotatingFileHandler(error_log, maxBytes=error_log_bytes, backupCount=1, encoding="utf-8")
        except OSError as error:
            raise Unwritable(f"ERROR_LOG: {error_log} cannot be written: {error.strerror}") from None
        rows.setFormatter(_JsonLines())
        _TROUBLES.addHandler(rows)
    _TROUBLES.setLevel(logging.WARNING if error_log else logging.NOTSET)  # its rows do not depend on LOG_LEVEL
