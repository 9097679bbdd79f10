"""What the command `check` looks at, one subject a file."""

from msgspec import Struct


class Finding(Struct, frozen=True):
    """What one check found."""

    subject: str
    ok: bool
    detail: str
