"""Determines the dialect of a body, before that dialect's decoder sees it."""

from msgspec import Struct

from facilitator.domain.strict_json import JSON, StrictJSONError, decode


class Body(Struct, frozen=True):
    """A parsed body and its dialect. `members` is None where the body is no JSON object; `fault` is
    then what is wrong with its JSON, "" for JSON of another kind.
    """

    dialect: str
    members: dict[str, JSON] | None
    fault: str = ""


def detect(body: bytes) -> Body:
    """Parse a body and determine its dialect.

    A body that is no JSON is of the standard dialect where it names `paymentPayload`: that dialect
    has words for faults of JSON. Any other body that is no JSON object is refused in Jeju's words.
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
    """Return whether a body is of the standard dialect: whether `paymentPayload` is an object,
    whatever else the body has.
    """
    return isinstance(members.get("paymentPayload"), dict)
