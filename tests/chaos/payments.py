"""Payments of all kinds, what their sellers heard, and what that means."""

import json
import time
from typing import Any

import aiohttp
from msgspec import Struct, field

from facilitator.commands.devnet import Devnet
from tests.chaos.plan import Ask, Order
from tests.support.chain import devnet_authorization, devnet_payment
from tests.support.service import request
from tests.support.x402 import v1_body, v2_body

SUCCESS, PENDING, BUSY, USED = "success", "pending", "busy", "used"
REFUSED, UNAVAILABLE, CUT, BROKEN = "refused", "unavailable", "cut", "broken"
FINAL = frozenset({SUCCESS, USED, REFUSED})
_MEANINGS = {
    "Settlement pending": PENDING,
    "settlement_pending": PENDING,
    "Nonce is being processed": BUSY,
    "duplicate_settlement": BUSY,
    "Nonce has already been used": USED,
    "Nonce already used": USED,
    "Nonce already used on-chain": USED,
    "invalid_exact_evm_nonce_already_used": USED,
}


class Heard(Struct, frozen=True, kw_only=True):
    """A request and what came of it. Times are those of `time.monotonic`; CUT: nobody heard."""

    begun: float
    ended: float
    key: str | None
    meaning: str
    words: str = ""
    transaction: str = ""
    replayed: bool = False
    body: bytes = b""


class Payment(Struct):
    """A signed payment and its story."""

    order: Order
    body: dict[str, Any]
    heard: list[Heard] = field(default_factory=list)

    @property
    def final(self) -> bool:
        """Whether its seller knows what became of it, as far as he has asked."""
        meanings = [heard.meaning for heard in self.heard if heard.meaning != CUT]
        return SUCCESS in meanings or (bool(meanings) and meanings[-1] in FINAL)

    def told(self, meaning: str) -> list[Heard]:
        return [heard for heard in self.heard if heard.meaning == meaning]


def sign(devnet: Devnet, order: Order) -> Payment:
    """The payment of an order, signed now."""
    payer = devnet.accounts[order.payer]
    terms: dict[str, Any] = {"payer": payer, "amount": order.amount, "resource": order.resource}
    if order.kind in ("jeju", "gasless"):
        header = devnet_payment(devnet, nonce=order.nonce.hex(), **terms)
        if order.forged:
            header["resource"] = "/another"
        body = request(header)
        if order.kind == "gasless":
            body["authParams"] = devnet_authorization(
                devnet, payer=payer, value=order.amount, nonce=order.token_nonce
            )
        return Payment(order, body)
    make, price = (v1_body, "maxAmountRequired") if order.kind == "v1" else (v2_body, "amount")
    body = make(
        devnet,
        payer=payer,
        requirements={price: str(order.amount), "maxTimeoutSeconds": order.lifetime},
        authorization={"nonce": "0x" + order.nonce.hex()},
        tampered={"to": "0x" + "22" * 20} if order.forged else {},
    )
    return Payment(order, body)


async def post(session: aiohttp.ClientSession, url: str, payment: Payment, ask: Ask) -> Heard:
    """Ask to settle it, for as long as the client is patient."""
    headers = {} if ask.key is None else {"Idempotency-Key": ask.key}
    timeout = aiohttp.ClientTimeout(total=ask.patience)
    begun = time.monotonic()
    try:
        async with session.post(
            url + payment.order.path, json=payment.body, headers=headers, timeout=timeout
        ) as response:
            content = await response.read()
            status, replayed = response.status, "Idempotent-Replayed" in response.headers
    except (aiohttp.ClientError, TimeoutError):
        return Heard(begun=begun, ended=time.monotonic(), key=ask.key, meaning=CUT)
    meaning, words, transaction = _understood(status, content)
    return Heard(
        begun=begun,
        ended=time.monotonic(),
        key=ask.key,
        meaning=meaning,
        words=words,
        transaction=transaction,
        replayed=replayed,
        body=content,
    )


def _understood(status: int, content: bytes) -> tuple[str, str, str]:
    """What a reply means, its words, and the transaction that it names."""
    try:
        reply = json.loads(content)
        success = reply["success"]
    except (ValueError, KeyError, TypeError):
        return BROKEN, f"{status} {content[:200]!r}", ""
    words = reply.get("error") or reply.get("errorReason") or ""
    transaction = reply.get("txHash") or reply.get("transaction") or ""
    if status == 503 and success is False:
        return UNAVAILABLE, words, transaction
    if status != 200 or success is not (words == ""):
        return BROKEN, f"{status} {content[:200]!r}", transaction
    return SUCCESS if success else _MEANINGS.get(words, REFUSED), words, transaction
