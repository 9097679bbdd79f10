"""Logs: one line an event, fixed keys first, on standard error; secrets are blanked at the end.

`event(log, logging.INFO, "settled", network="jeju", transaction=...)` is the one way to log. Other
people's loggers (hypercorn, aiohttp, asyncio, warnings) leave through the same formatter. Nothing
here decides what may be logged: callers do not log keys, signatures or RPC URLs. The redaction is
for the day on which somebody else's exception quotes one.
"""

import logging
import re
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

REDACTED = "[redacted]"
SECRET_MIN_LENGTH = 8  # of what was given as a secret; redacting less would redact the language
URL_KEY_MIN_LENGTH = 16  # of an API key in a path or query; "ethereum" and "v3" are no keys

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

_JSON_SAFE_INTEGER = 2**53 - 1  # larger ones lose digits in most readers of JSON (RFC 8259, 6)
_PLAIN_WORD = re.compile(r'[^\s"=\\\x00-\x1f\x7f]+')

# 64-byte (EIP-2098) and 65-byte signatures, and the calldata and raw transactions that carry one.
# The look-behind keeps the search linear: no second try inside one run of digits.
_SIGNATURE = re.compile(r"(?<![0-9a-fA-F])(?:0[xX])?[0-9a-fA-F]{128,}")
# 32 bytes that are called a key. Hashes look the same and are what one needs to read in a log.
_KEY_WORDS = ("key", "private", "secret")
_NAMED_KEY = re.compile(
    rf"({'|'.join(_KEY_WORDS)})([\w \"':=]{{1,16}}?)(?:0x)?[0-9a-f]{{64}}(?![0-9a-f])",
    re.IGNORECASE,
)
_USER_INFO = re.compile(r"(?<=://)[^\s/@\"']+@")

_secrets: dict[str, re.Pattern[str]] = {}  # by lower case


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
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JSONFormatter() if format == "json" else TextFormatter())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    logging.captureWarnings(True)


class JSONFormatter(logging.Formatter):
    """{"time": ISO 8601 UTC with ms, "level", "event", "logger", "request_id", fields..}."""

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


def add_secret(text: str) -> None:
    """Never show `text` (a configured key or URL) in a log, nor the telling parts of a URL."""
    for secret in [*url_secrets(text), text.removeprefix("0x")]:
        if len(secret) >= SECRET_MIN_LENGTH:
            inside_json = msgspec.json.encode(secret).decode()[1:-1]
            for form in (secret, inside_json):
                _secrets[form.lower()] = re.compile(re.escape(form), re.IGNORECASE)


def url_secrets(url: str) -> list[str]:
    """The URL itself and the parts of it that open a door, the longest first; [] for no URL.

    These are user, password, and every path segment and query value that looks like an API key:
    a long one with a digit in it.
    """
    if "://" not in url:
        return []
    parts = urlsplit(url)
    login = [part for part in (parts.username, parts.password) if part]
    words = [*parts.path.split("/"), *(value for _, value in parse_qsl(parts.query))]
    keys = [
        word
        for word in words
        if len(word) >= URL_KEY_MIN_LENGTH and any(char.isdigit() for char in word)
    ]
    both = {form for part in (*login, *keys) for form in (part, unquote(part))}
    return sorted(
        {url, *(part for part in both if len(part) >= SECRET_MIN_LENGTH)}, key=len, reverse=True
    )


def redact(text: str) -> str:
    """`text` without known secrets, signatures, named keys and the credentials in URLs."""
    lower = text.lower()
    for secret, pattern in _secrets.items():
        if secret in lower:  # much faster than the pattern, and almost always the end of it
            text = pattern.sub(REDACTED, text)
    text = _SIGNATURE.sub(REDACTED, text)
    if any(word in lower for word in _KEY_WORDS):
        text = _NAMED_KEY.sub(rf"\1\2{REDACTED}", text)
    return _USER_INFO.sub(f"{REDACTED}@", text) if "://" in text else text
