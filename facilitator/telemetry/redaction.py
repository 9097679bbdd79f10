"""Removes secrets from text: registered ones, and whatever looks like one.

Callers never log keys, signatures or RPC URLs, but an exception of a dependency may quote one.
"""

import ipaddress
import re
from collections import deque
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

REDACTED = "[redacted]"
SECRET_MIN_LENGTH = 8  # of a registered secret; anything shorter would redact plain words
URL_KEY_MIN_LENGTH = 16  # of an API key in a path or query; "ethereum" and "v3" are no keys
CHANGING_LIMIT = 32  # changing secrets that are kept, the latest ones
OPAQUE_MIN_LENGTH = 200  # of base64: half a signed payment as its header carries it

# 64-byte (EIP-2098) and 65-byte signatures, and the calldata and raw transactions that carry one.
# The look-behind keeps the search linear: no second try inside one run of digits.
_SIGNATURE = re.compile(r"(?<![0-9a-fA-F])(?:0[xX])?[0-9a-fA-F]{128,}")
# A payment as its header carries it, signature included.
_OPAQUE = re.compile(rf"(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/_-]{{{OPAQUE_MIN_LENGTH},}}={{0,2}}")
# 32 bytes with the word for a key before them: hashes look the same, and must stay readable.
_KEY_WORDS = ("key", "private", "secret")
_NAMED_KEY = re.compile(
    rf"({'|'.join(_KEY_WORDS)})([\w \"':=]{{1,16}}?)(?:0x)?[0-9a-f]{{64}}(?![0-9a-f])",
    re.IGNORECASE,
)
_USER_INFO = re.compile(r"(?<=://)[^\s/@\"']+@")
# A header as HTTP writes it, or as a dict, a list of pairs or JSON shows it; or its value alone.
_AUTHORIZATION_WORDS = ("authorization", "bearer ", "basic ")
_AUTHORIZATION = re.compile(
    r"(authorization(?:\\?[\"']?\s*[:=]|\\?[\"']\s*,)\s*(?:b?\\?[\"'])?)"
    r"(?:[a-z]+\s+)?[^\s\"'\\,;)}\]]+"
    r"|\b(bearer\s+|basic\s+)[a-z0-9._~+/=-]{12,}",
    re.IGNORECASE,
)

_secrets: dict[str, re.Pattern[str]] = {}  # by lower case
_changing: deque[tuple[str, dict[str, re.Pattern[str]]]] = deque(maxlen=CHANGING_LIMIT)


def add_secret(text: str) -> None:
    """Register a configured key, password or URL, and the secret parts of a URL, for redaction."""
    _secrets.update(_forms(text))


def add_changing_secret(text: str) -> None:
    """Register a secret that may change while the process runs, such as a password file's. The last
    CHANGING_LIMIT different ones are kept.
    """
    if _changing and _changing[-1][0] == text:
        return
    _changing.append((text, _forms(text)))
    for older in tuple(_changing)[:-1]:
        if older[0] == text:
            _changing.remove(older)


def _forms(text: str) -> dict[str, re.Pattern[str]]:
    forms = {}
    for secret in [*url_secrets(text), text.removeprefix("0x")]:
        if len(secret) >= SECRET_MIN_LENGTH:
            inside_json = msgspec.json.encode(secret).decode()[1:-1]
            for form in (secret, inside_json):
                forms[form.lower()] = re.compile(re.escape(form), re.IGNORECASE)
    return forms


def url_secrets(url: str) -> list[str]:
    """Return the URL and its secret parts, the longest first; [] where `url` is no URL.

    Secret parts are the user, the password, the host's name (some providers put an API key there,
    and errors of aiohttp and asyncpg quote it), and every path segment and query value that looks
    like an API key: long, with a digit in it.
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
    both |= {parts.hostname} if parts.hostname and _is_name(parts.hostname) else set()
    return sorted(
        {url, *(part for part in both if len(part) >= SECRET_MIN_LENGTH)}, key=len, reverse=True
    )


def _is_name(host: str) -> bool:
    """Return whether a host is a domain name: neither an IP address nor a single word."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return "." in host
    return False


def redact(text: str) -> str:
    """Return `text` with registered secrets, signatures, named keys, Authorization headers and the
    credentials in URLs replaced by REDACTED.
    """
    lower = text.lower()
    # Copied, since other threads log while one may be added.
    for known in (_secrets, *(forms for _, forms in tuple(_changing))):
        for secret, pattern in known.items():
            if secret in lower:  # far cheaper than the pattern, and nearly always false
                text = pattern.sub(REDACTED, text)
    text = _SIGNATURE.sub(REDACTED, text)
    if len(text) > OPAQUE_MIN_LENGTH:
        text = _OPAQUE.sub(REDACTED, text)
    if any(word in lower for word in _KEY_WORDS):
        text = _NAMED_KEY.sub(rf"\1\2{REDACTED}", text)
    if any(word in lower for word in _AUTHORIZATION_WORDS):
        text = _AUTHORIZATION.sub(_without_credentials, text)
    return _USER_INFO.sub(f"{REDACTED}@", text) if "://" in text else text


def _without_credentials(match: re.Match[str]) -> str:
    return f"{match[1] or match[2]}{REDACTED}"
