"""Requests for protocols that are not spoken here, in bytes, and clients that hang up at once."""

import socket
from typing import Final

# As RFC 7540 section 3.2 has it; RFC 9113 has dropped it.
H2C: Final = (
    b"Upgrade: h2c\r\n"
    b"Connection: Upgrade, HTTP2-Settings\r\n"
    b"HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"
)
WEBSOCKET: Final = (
    b"Upgrade: websocket\r\n"
    b"Connection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Version: 13\r\n"
)
# RFC 9113 section 3.4, an empty SETTINGS frame, and GET / with :authority x in a HEADERS frame
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
HTTP2_GET: Final = b"\0\0\6\1\5\0\0\0\1" + b"\x82\x86\x84\x41\1x"
GET: Final = b"GET /health HTTP/1.1\r\nHost: x\r\n"

# What is answered over HTTP/1.1, as if it had not asked.
IGNORED: Final = {
    "h2c": GET + H2C + b"\r\n",
    "h2c without settings": GET + b"Upgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
    "h2c in capitals, before others": GET + b"Upgrade: H2C, irc\r\nConnection: Upgrade\r\n\r\n",
    "h2c with settings that are none": GET + H2C.replace(b"AAM", b"\xff!!") + b"\r\n",
    "h2c over HTTP/1.0": GET.replace(b"1.1", b"1.0") + H2C + b"\r\n",
    "TLS": GET + b"Upgrade: TLS/1.3\r\nConnection: Upgrade\r\n\r\n",
}
# What is refused, and with which status.
REFUSED: Final = {
    "HTTP/2": (PREFACE + HTTP2_GET, 505),
    "HTTP/2's preface": (PREFACE, 505),
    "the preface's first half": (b"PRI * HTTP/2.0\r\n\r\n", 505),
    "HTTP/2 with rubbish": (PREFACE + b"\xff" * 100, 505),
    "GET of HTTP/2.0": (GET.replace(b"1.1", b"2.0") + b"\r\n", 505),
    "GET of HTTP/0.9": (GET.replace(b"1.1", b"0.9") + b"\r\n", 505),
    "WebSocket": (GET + WEBSOCKET + b"\r\n", 400),
    "WebSocket and frames": (GET + WEBSOCKET + b"\r\n\x81\x83abcdefg", 400),
    "WebSocket and a body": (GET + WEBSOCKET + b"Content-Length: 3\r\n\r\nabc", 400),
    "WebSocket without a key": (GET + b"Upgrade: websocket\r\nConnection: upgrade\r\n\r\n", 400),
    "WebSocket of version 12": (GET + WEBSOCKET.replace(b"13", b"12") + b"\r\n", 400),
    "WebSocket over HTTP/1.0": (GET.replace(b"1.1", b"1.0") + WEBSOCKET + b"\r\n", 400),
    "h2c and WebSocket": (GET + H2C + WEBSOCKET + b"\r\n", 400),
}


def hang_up(port: int, sent: bytes, times: int) -> None:
    """So many connections to loopback, one after the other: each is closed once `sent` is sent."""
    for _ in range(times):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            client.sendall(sent)
