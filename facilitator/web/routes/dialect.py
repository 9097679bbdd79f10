"""What a dialect brings, so that POST /verify and POST /settle speak it.

A further dialect is one more module here with a function of the type `Reader`, and an entry in
`payments.DIALECTS`; `dialects.detect` tells which bodies are of it.
"""

from collections.abc import Callable
from typing import Literal, Protocol

import anyio
from msgspec import Struct
from starlette.types import Receive

from facilitator.chain.answers import ChainUnavailable
from facilitator.dialects.detect import Body
from facilitator.domain.payment import Reason, Refusal
from facilitator.domain.schemes import AnyPayment
from facilitator.engine.requests import IdempotencyKey, SettleReply, SettleRequest
from facilitator.engine.settle import Settler
from facilitator.engine.waiters import Waiter
from facilitator.journal.store import StoreError
from facilitator.web.routes.replies import RETRY_AFTER
from facilitator.web.service import Service

Endpoint = Literal["verify", "settle", "settle_gasless"]
# Who settles, and what.
Settlement = tuple[Settler, SettleRequest]


class PaymentRequest(Protocol):
    """A request to verify or to settle a payment, decoded, in one dialect.

    `network` is the name of the network that it is for and `scheme` its scheme, both as the request
    names them and None where that is not known; `network` is None as well where it is not served.
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
        """Return the body of the reply to POST /settle, as it is sent and kept."""


class BadRequest(Struct, frozen=True):
    """The reply to a request that cannot be decoded, in the words of its dialect."""

    body: bytes
    status: int


Reader = Callable[[Service, Body, Endpoint], PaymentRequest | BadRequest]


async def settle_and_encode(
    asked: PaymentRequest, settlement: Settlement | SettleReply, receive: Receive
) -> tuple[SettleReply, bytes]:
    """Settle, and wait as long as the client does. Return the reply and its body, which are to be
    sent at once. An outage is a refusal like any other; a reply is only encoded.
    """
    if isinstance(settlement, SettleReply):
        return settlement, await asked.encode_reply(settlement)
    settler, request = settlement
    waiter = Waiter()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_hang_up_with_client, receive, waiter)
        try:
            async with settler.settle(request, waiter) as settling:
                reply, body = settling.reply, await asked.encode_reply(settling.reply)
                sent = await settling.deliver(body)
        except (ChainUnavailable, StoreError) as fault:
            reply = sent = outage_reply(fault)
            body = await asked.encode_reply(sent)
        tasks.cancel_scope.cancel()
    return sent, body if sent is reply else await asked.encode_reply(sent)


async def _hang_up_with_client(receive: Receive, waiter: Waiter) -> None:
    """Wait until the client goes away: nothing else can come once the body is read."""
    while (await receive())["type"] != "http.disconnect":
        pass
    waiter.hang_up()


def outage(fault: Exception) -> tuple[Refusal, float]:
    """Return the refusal for an outage of chain or journal, and the seconds until a retry."""
    if isinstance(fault, ChainUnavailable):
        return Refusal(Reason.CHAIN_UNAVAILABLE), fault.retry_after or RETRY_AFTER
    return Refusal(Reason.STORE_UNAVAILABLE), RETRY_AFTER


def outage_reply(fault: Exception) -> SettleReply:
    """Return the reply to POST /settle for the same."""
    refusal, retry_after = outage(fault)
    return SettleReply(refusal=refusal, retry_after=retry_after)
