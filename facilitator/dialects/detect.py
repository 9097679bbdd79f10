"""Tells which dialect a body speaks, before anything of it is decoded in that dialect's terms."""

from msgspec import Struct

from facilitator.domain.strict_json import JSON, StrictJSONError, decode


class Body(Struct, frozen=True):
    """A body whose dialect is known. `members` is None where it is not a JSON object; `fault` then
    says why, unless it is JSON of another kind.
    """

    dialect: str
    members: dict[str, JSON] | None
    fault: str = ""


def detect(body: bytes) -> Body:
    """Parse a body and tell its dialect.

    A body that is no JSON counts as the standard dialect's where it looks like it: that one has
    words for what is wrong. Every other body that is no JSON object is refused in Jeju's words.
    """
    try:
        members = decode(body)
    except StrictJSONError as wrong:
        dialect = "x402" if b'"paymentPayload"' in body else "jeju"
        return Body(dialect, None, str(wrong))
    if not isinstance(members, dict):
        return Body("jeju", None)
    return Body("x402" if speaks_x402(members) else "jeju", members)


def speaks_x402(members: dict[str, JSON]) -> bool:
    """Return whether a body is of the standard dialect: its `paymentPayload` is an object, whatever
    else it has.
    """
    return isinstance(members.get("paymentPayload"), dict)
