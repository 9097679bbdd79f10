"""Logs: one line for each event, fixed keys first, on standard error, without secrets.

`event(log, logging.INFO, "settled", network="jeju", transaction=...)` is the one way to log. The
loggers of dependencies (hypercorn, aiohttp, asyncio, warnings) use the same formatter. Callers
never log keys, signatures or RPC URLs; as a second line of defence `redaction` removes secrets from
every finished line, traceback included.
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
    """Return the logger `name`, such as "facilitator.engine.settle"."""
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
    """Log every uncaught exception of any thread as one line; asyncio logs its failed tasks."""

    def uncaught(
        kind: type[BaseException], error: BaseException | None, _: TracebackType | None
    ) -> None:
        if issubclass(kind, KeyboardInterrupt | SystemExit):  # raised on purpose
            return
        event(_log, logging.CRITICAL, "uncaught", exc_info=error, error=kind.__name__)

    sys.excepthook = uncaught
    threading.excepthook = lambda args: uncaught(args.exc_type, args.exc_value, args.exc_traceback)
    sys.unraisablehook = lambda args: uncaught(args.exc_type, args.exc_value, args.exc_traceback)


def begin_request() -> dict[str, object]:
    """Return the fields of this context's request, empty yet; `describe` adds to them."""
    fields: dict[str, object] = {}
    _request.set(fields)  # never reset: a request has a task, and so a context, of its own
    return fields


def describe(**fields: object) -> None:
    """Add fields to the log line and the span of this context's request. Fields that are None are
    left out; outside of a request nothing happens.
    """
    known = _request.get()
    if known is not None:
        known.update((name, value) for name, value in fields.items() if value is not None)


class _Handler(logging.StreamHandler[TextIO]):
    """Writes records. Of a record that cannot be formatted it writes the place and the error's
    class: `logging` itself would print the arguments, unredacted.
    """

    def format(self, record: logging.LogRecord) -> str:
        try:
            return super().format(record)
        except Exception as error:
            where = {"source": f"{record.name}:{record.lineno}", "error": type(error).__name__}
            instead = _log.makeRecord(_log.name, logging.ERROR, "", 0, "unloggable", (), None)
            instead.fields = where
            return super().format(instead)

    def handleError(self, record: logging.LogRecord) -> None:
        """Do nothing: the stream is closed, so there is nowhere to report it."""


class JSONFormatter(logging.Formatter):
    """{"time": ISO 8601 UTC with ms, "level", "event", "logger", "request_id", "trace_id",
    fields..}.
    """

    def format(self, record: logging.LogRecord) -> str:
        line = msgspec.json.encode(self.entry(record), enc_hook=str)
        return redact(line.decode())

    def entry(self, record: logging.LogRecord) -> dict[str, object]:
        """Return the line's members in order. A field never replaces a fixed key."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        entry: dict[str, object] = {
            "time": f"{time[:-6]}Z",
            "level": record.levelname.lower(),
            "event": getattr(record, "event", None) or record.getMessage(),
            "logger": record.name,
        }
        if identity := request_id.get():
            entry["request_id"] = identity
        if context := current():
            entry["trace_id"] = context.trace_id
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
    """Quote a value, so that it cannot be read as another field or another line."""
    if value is None:
        return "-"
    if isinstance(value, str) and _PLAIN_WORD.fullmatch(value) and value.isprintable():
        return value
    return _one_line(msgspec.json.encode(value, enc_hook=str).decode())


def _one_line(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
