"""One structured line per event: JSON on the standard error stream, the call's id in every line of a call."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

Value = str | int | float | bool | None

_LOGGER = logging.getLogger("voice_agent")


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

    def bug(self, event: str, error: BaseException) -> None:
        """A failure that no one foresaw, with its traceback."""
        _LOGGER.error(event, exc_info=error, extra={"fields": dict(self.fields)})


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


def configure(level: str) -> None:
    """Send our lines, and the server's warnings, to the standard error stream."""
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    _LOGGER.setLevel(level)
