"""A detector for detect-secrets: private keys of Ethereum, which it does not know. They look like
hashes, so every 32 bytes in hex count; those that are none are listed in known_secrets.json.
"""

import re
from collections.abc import Generator
from typing import Any

from detect_secrets.plugins.base import RegexBasedDetector


# the parent has no types
class EthereumKeyDetector(RegexBasedDetector):  # type: ignore[misc]
    """32 bytes in hex, with 0x or without, in no longer run of digits."""

    secret_type = "Ethereum private key"
    denylist = (re.compile(r"(?<![0-9a-zA-Z])(?:0[xX])?([0-9a-fA-F]{64})(?![0-9a-zA-Z])"),)

    def analyze_string(self, string: str) -> Generator[str, None, None]:
        """One that repeats a single byte or counts up is nobody's."""
        found: Any
        for found in super().analyze_string(string):
            text = str(found).lower()
            if len({text[at : at + 2] for at in range(0, 64, 2)}) > 2:
                yield text
