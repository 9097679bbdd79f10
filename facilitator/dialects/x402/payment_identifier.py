"""The extension `payment-identifier`: an id that the buyer gives a payment.

It is validated as the official packages do, and no reply depends on it: otherwise a buyer, who
chooses the id, could have success reported twice for one payment.
"""

import re

from facilitator.domain.strict_json import JSON

NAME = "payment-identifier"
_ID = re.compile(r"\A[A-Za-z0-9_-]{16,128}\Z")


class MissingMember(ValueError):
    """A required member is missing; the text names it."""


def check(extension: JSON) -> None:
    """Check the extension. Raises MissingMember where a member is missing, and ValueError for any
    other fault; the text says which.
    """
    if not isinstance(extension, dict):
        raise ValueError("must be an object")
    info = extension.get("info")
    if info is None:
        raise MissingMember("info is missing")
    if not isinstance(info, dict):
        raise ValueError("info must be an object")
    required, given = info.get("required"), info.get("id")
    if required is None:
        raise MissingMember("info.required is missing")
    if not isinstance(required, bool):
        raise ValueError("info.required must be true or false")
    if given is None:
        if required:
            raise MissingMember("info.id is missing")
    elif not isinstance(given, str) or not _ID.match(given):
        raise ValueError("info.id must be 16 to 128 of A-Z, a-z, 0-9, _ and -")
