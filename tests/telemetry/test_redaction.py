"""Laws of redaction: what is a secret, or looks like one, is in no text; what is none stays."""

import pytest

from facilitator.telemetry.redaction import (
    CHANGING_LIMIT,
    REDACTED,
    add_changing_secret,
    add_secret,
    redact,
    url_secrets,
)

HASH = "0x" + "ab12" * 16
SIGNATURE = "0x" + "cd34" * 32 + "1b"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"transaction={HASH}", f"transaction={HASH}"),
        (f'"block":"{HASH}"', f'"block":"{HASH}"'),
        (f"hash {HASH[2:]}", f"hash {HASH[2:]}"),
        (f"token=0x{'a' * 40}", f"token=0x{'a' * 40}"),
        (SIGNATURE, REDACTED),
        (SIGNATURE[2:], REDACTED),
        (SIGNATURE.upper(), REDACTED),
        (SIGNATURE[:-2], REDACTED),  # EIP-2098
        (f"calldata 0x8baa579f{'0' * 64}{SIGNATURE[2:]}.", f"calldata {REDACTED}."),
        (f"private_key={HASH}", f"private_key={REDACTED}"),
        (f"Private key: {HASH[2:]}", f"Private key: {REDACTED}"),
        (f'"FACILITATOR_PRIVATE_KEY":"{HASH}"', f'"FACILITATOR_PRIVATE_KEY":"{REDACTED}"'),
        (f"secret '{HASH}'", f"secret '{REDACTED}'"),
        ("https://user:pass@host/x", f"https://{REDACTED}@host/x"),
        ("postgresql://app:pw@db:5432/x", f"postgresql://{REDACTED}@db:5432/x"),
        ("https://host/x?mail=a@b", "https://host/x?mail=a@b"),
        ("Authorization: Bearer abc.def", f"Authorization: {REDACTED}"),
        ("authorization=Basic Zm9v, then", f"authorization={REDACTED}, then"),
        ("{'authorization': 'Token abc'}", f"{{'authorization': '{REDACTED}'}}"),
        ("(b'authorization', b'Bearer abc')", f"(b'authorization', b'{REDACTED}')"),
        ('"{\\"Authorization\\": \\"abc\\"}"', f'"{{\\"Authorization\\": \\"{REDACTED}\\"}}"'),
        ("sent bearer abcdef-ghi.jkl", f"sent bearer {REDACTED}"),
        ('"reason":"authorization_used"', '"reason":"authorization_used"'),
        ("the authorization was used", "the authorization was used"),
        (f"header {'eyJhIjoi' * 30}==", f"header {REDACTED}"),
        ("a/path/" * 20, "a/path/" * 20),
    ],
)
def test_redaction(text: str, expected: str) -> None:
    assert redact(text) == expected


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("http://127.0.0.1:9545", []),
        ("http://[::1]:9545", []),
        ("http://geth-mainnet:8545", []),
        ("https://Mainnet.base.org/", ["mainnet.base.org"]),
        ("https://rpc.example/ethereum-sepolia/v3", ["rpc.example"]),
        ("https://rpc.example/v2/0123456789abcdef", ["0123456789abcdef", "rpc.example"]),
        ("https://rpc.example/?key=0123456789abcdef&x=1", ["0123456789abcdef", "rpc.example"]),
        ("wss://me-mysel:pass%2Fword1@1.2.3.4", ["pass%2Fword1", "pass/word1", "me-mysel"]),
        ("wss://me:pass@1.2.3.4", []),
    ],
)
def test_the_telling_parts_of_a_url(url: str, parts: list[str]) -> None:
    assert url_secrets(url) == [url, *parts]


def test_no_url_has_no_parts() -> None:
    assert url_secrets("0x" + "ab" * 32) == []


def test_a_short_secret_does_not_blank_the_language() -> None:
    add_secret("")
    add_secret("0x")
    add_secret("key")
    assert redact("the key") == "the key"


def test_of_secrets_that_replace_each_other_the_last_are_known() -> None:
    """One that is read again takes no second place, and is as new as the last; what was configured
    is never forgotten.
    """
    add_secret("configured-for-good")
    secrets = [f"rotated-{number:03}-secret" for number in range(CHANGING_LIMIT + 1)]
    for secret in secrets[:-1]:
        for _ in range(3):
            add_changing_secret(secret)
    assert [redact(secret) for secret in secrets] == [REDACTED] * CHANGING_LIMIT + [secrets[-1]]
    add_changing_secret(secrets[0])
    add_changing_secret(secrets[-1])
    shown = [secret for secret in secrets if redact(secret) == secret]
    assert shown == [secrets[1]]
    assert redact("it is configured-for-good") == f"it is {REDACTED}"
