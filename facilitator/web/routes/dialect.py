"""What a dialect must implement for POST /verify and POST /settle.

A further dialect is one more module here with a function of the type `Reader`, and an entry in
`payments.DIALECTS`; `dialects.detect` finds out which bodies are of it.
"""

from collections.abc import Callable
from typing import Literal, Protocol

from msgspec import Struct

from facilitator.chain.answers import ChainUnavailable
from facilitator.dialects.detect import Body
from facilitator.domain.payment import Reason, Refusal
from facilitator.domain.schemes import AnyPayment
from facilitator.engine.requests import IdempotencyKey, SettleReply, SettleRequest
from facilitator.engine.settle import Settler
from facilitator.web.replies import RETRY_AFTER
from facilitator.web.service import Service

Endpoint = Literal["verify", "settle", "settle_gasless"]
# Who settles, and what.
Settlement = tuple[Settler, SettleRequest]
# The refusal of a settlement that has no outcome yet.
PENDING = Refusal(Reason.SETTLEMENT_PENDING)


class PaymentRequest(Protocol):
    """A decoded request to verify or to settle a payment, in one dialect.

    `network` is the name of the network that it is for, None where that is not served; `scheme` is
    as the request names it, None where that is not known.
    """

    @property
    def network(self) -> str | None: ...

    @property
    def scheme(self) -> str | None: ...

    async def verify(self) -> AnyPayment | Refusal:
        """Return the payment where it would settle. Raises ChainUnavailable, StoreError."""

    async def settlement(self, key: IdempotencyKey | None) -> Settlement | SettleReply:
        """Return what to settle, or the reply where there is nothing to settle."""

    def encode_verdict(self, verdict: AnyPayment | Refusal) -> bytes:
        """Return the body of the reply to POST /verify."""

    async def encode_reply(self, reply: SettleReply) -> bytes:
        """Return the body of the reply to POST /settle, as it is sent and stored."""


class BadRequest(Struct, frozen=True):
    """The reply to a request that cannot be decoded, in the words of its dialect."""

    body: bytes
    status: int


Reader = Callable[[Service, Body, Endpoint], PaymentRequest | BadRequest]


def outage(fault: Exception) -> tuple[Refusal, float]:
    """Return the refusal for an outage of chain or journal, and the seconds until a retry."""
    if isinstance(fault, ChainUnavailable):
        return Refusal(Reason.CHAIN_UNAVAILABLE), fault.retry_after or RETRY_AFTER
    return Refusal(Reason.STORE_UNAVAILABLE), RETRY_AFTER


def outage_reply(fault: Exception) -> SettleReply:
    """Return the reply to POST /settle for such an outage."""
    refusal, retry_after = outage(fault)
    return SettleReply(refusal=refusal, retry_after=retry_after)
