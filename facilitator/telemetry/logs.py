"""Logs: one line an event, fixed keys first, on standard error; secrets are blanked at the end.

`event(log, logging.INFO, "settled", network="jeju", transaction=...)` is the one way to log. Other
people's loggers (hypercorn, aiohttp, asyncio, warnings) leave through the same formatter. Nothing
here decides what may be logged: callers do not log keys, signatures or RPC URLs; `redaction` looks
at every line all the same, whole as it is written, with the traceback in it.
"""

import logging
import re
import sys
import threading
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Literal, TextIO

import msgspec

from facilitator.telemetry.redaction import redact
from facilitator.telemetry.tracing import current

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
_request: ContextVar[dict[str, object] | None] = ContextVar("request", default=None)

_log = logging.getLogger(__name__)
_JSON_SAFE_INTEGER = 2**53 - 1  # larger ones lose digits in most readers of JSON (RFC 8259, 6)
_PLAIN_WORD = re.compile(r'[^\s"=\\\x00-\x1f\x7f]+')


def get_logger(name: str) -> logging.Logger:
    """The logger `name`, such as "facilitator.settler"."""
    return logging.getLogger(name)


def event(
    log: logging.Logger,
    level: int,
    name: str,
    /,
    *,
    exc_info: BaseException | None = None,
    **fields: object,
) -> None:
    """Log that `name` happened. Fields may be bytes (shown as 0x hex) and integers of any size."""
    if log.isEnabledFor(level):
        chain = (type(exc_info), exc_info, exc_info.__traceback__) if exc_info else None
        record = log.makeRecord(
            log.name, level, "", 0, name, (), chain, extra={"fields": fields, "event": name}
        )
        log.handle(record)


def configure_logging(format: Literal["text", "json"], level: str) -> None:
    """Send every logger of the process through one handler. `level` is a name such as "INFO".

    Hypercorn puts a handler of its own on its loggers, unless its `errorlog` is a Logger.
    """
    handler = _Handler(sys.stderr)
    handler.setFormatter(JSONFormatter() if format == "json" else TextFormatter())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    logging.captureWarnings(True)


def log_uncaught() -> None:
    """Have what nobody catches, in whichever thread, leave as one line of the log as well. What
    ends a task of asyncio, it tells its own logger.
    """

    def uncaught(
        kind: type[BaseException], error: BaseException | None, _: TracebackType | None
    ) -> None:
        if issubclass(kind, KeyboardInterrupt | SystemExit):  # meant
            return
        event(_log, logging.CRITICAL, "uncaught", exc_info=error, error=kind.__name__)

    sys.excepthook = uncaught
    threading.excepthook = lambda told: uncaught(told.exc_type, told.exc_value, told.exc_traceback)
    sys.unraisablehook = lambda told: uncaught(told.exc_type, told.exc_value, told.exc_traceback)


def begin_request() -> dict[str, object]:
    """What is said of the request that is answered in this context: `describe` adds to it."""
    fields: dict[str, object] = {}
    _request.set(fields)  # never reset: a request has a task, and so a context, of its own
    return fields


def describe(**fields: object) -> None:
    """Say more of the request that is being answered, for its line in the log and its span. What is
    None is left out.
    """
    known = _request.get()
    if known is not None:
        known.update((name, value) for name, value in fields.items() if value is not None)


class _Handler(logging.StreamHandler[TextIO]):
    """A record that cannot be written is told of without what it says: `logging` would print its
    arguments as they are.
    """

    def format(self, record: logging.LogRecord) -> str:
        try:
            return super().format(record)
        except Exception as error:
            where = {"source": f"{record.name}:{record.lineno}", "error": type(error).__name__}
            told = _log.makeRecord(_log.name, logging.ERROR, "", 0, "unloggable", (), None)
            told.fields = where
            return super().format(told)

    def handleError(self, record: logging.LogRecord) -> None:
        """Nobody reads the stream any more."""


class JSONFormatter(logging.Formatter):
    """{"time": ISO 8601 UTC with ms, "level", "event", "logger", "request_id", "trace_id",
    fields..}.
    """

    def format(self, record: logging.LogRecord) -> str:
        line = msgspec.json.encode(self.entry(record), enc_hook=str)
        return redact(line.decode())

    def entry(self, record: logging.LogRecord) -> dict[str, object]:
        """The line's keys in their order. A field never replaces a fixed key."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        entry: dict[str, object] = {
            "time": f"{time[:-6]}Z",
            "level": record.levelname.lower(),
            "event": getattr(record, "event", None) or record.getMessage(),
            "logger": record.name,
        }
        if identity := request_id.get():
            entry["request_id"] = identity
        if place := current():
            entry["trace_id"] = place.trace_id
        for key, value in getattr(record, "fields", {}).items():
            entry[f"{key}_" if key in entry else key] = _plain(value)
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return entry


class TextFormatter(JSONFormatter):
    """12:00:01 INFO settled network=jeju transaction=0x..; a traceback follows, indented."""

    def format(self, record: logging.LogRecord) -> str:
        entry = self.entry(record)
        time = str(entry.pop("time"))[11:19]
        level = str(entry.pop("level")).upper()
        name = _one_line(str(entry.pop("event")))
        trace = str(entry.pop("traceback", "")).replace("\n", "\n  ")
        entry.pop("logger")
        words = [f"{key}={_word(value)}" for key, value in entry.items()]
        line = " ".join([time, level, name, *words])
        return redact(f"{line}\n  {trace}" if trace else line)


def _plain(value: object) -> object:
    if isinstance(value, str | bool | float | None):
        return value
    if isinstance(value, int):
        return value if abs(value) <= _JSON_SAFE_INTEGER else str(value)
    if isinstance(value, bytes | bytearray):
        return f"0x{value.hex()}"
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return str(value)


def _word(value: object) -> str:
    """A value that cannot be taken for another field, or for another line."""
    if value is None:
        return "-"
    if isinstance(value, str) and _PLAIN_WORD.fullmatch(value) and value.isprintable():
        return value
    return _one_line(msgspec.json.encode(value, enc_hook=str).decode())


def _one_line(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
