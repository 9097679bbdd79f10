"""What POST /settle does in both dialects: wait for an outcome, and repeat an earlier reply."""

import hashlib
import re
from collections.abc import Awaitable, Callable

import anyio
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive

from facilitator.chain.answers import ChainUnavailable
from facilitator.domain.payment import TEMPORARY, Reason, Refusal
from facilitator.engine.settle import IdempotencyKey, Settler, SettleReply, SettleRequest
from facilitator.engine.waiters import Waiter
from facilitator.journal.store import StoreError
from facilitator.telemetry.logs import describe
from facilitator.web.routes.replying import RETRY_AFTER, reply
from facilitator.web.service import Service

# Who settles, and what.
Asked = tuple[Settler, SettleRequest]
Encode = Callable[[SettleReply], Awaitable[bytes]]
Given = tuple[SettleReply, bytes]
IDEMPOTENCY_KEY = "Idempotency-Key"
# As long as any key that clients make up, of nothing that a header or a log stumbles over.
_KEY = re.compile(r"\A[\x21-\x7e]{1,255}\Z")
_STATUS = {
    Reason.IDEMPOTENCY_CONFLICT: 409,
    Reason.INVALID_IDEMPOTENCY_KEY: 400,
    Reason.SIGNER_NOT_CONFIGURED: 503,
    **dict.fromkeys(TEMPORARY, 503),
}


def read_idempotency_key(request: Request, body: bytes) -> IdempotencyKey | Refusal | None:
    """The key that the seller gives this request; None without one."""
    keys = request.headers.getlist(IDEMPOTENCY_KEY)
    if not keys:
        return None
    if len(keys) > 1 or not _KEY.match(keys[0]):
        return Refusal(Reason.INVALID_IDEMPOTENCY_KEY)
    sent = request.scope["path"].encode() + b"\0" + body
    return IdempotencyKey(keys[0], hashlib.sha256(sent).digest())


async def earlier_reply(
    service: Service, idempotency_key: IdempotencyKey | Refusal | None
) -> bytes | Refusal | None:
    """The final reply that this key had before, or why the key cannot be taken; None where the
    request has still to be answered.
    """
    if not isinstance(idempotency_key, IdempotencyKey):
        return idempotency_key
    try:
        kept = await service.store.find_reply("", idempotency_key.key)
    except StoreError:
        return Refusal(Reason.STORE_UNAVAILABLE)
    if kept is None:
        return None
    if kept.body_digest != idempotency_key.body_digest:
        return Refusal(Reason.IDEMPOTENCY_CONFLICT)
    return kept.reply


def replayed(body: bytes) -> Response:
    """An earlier reply, byte for byte."""
    describe(outcome="replayed")
    response = reply(body)
    response.headers["Idempotent-Replayed"] = "true"
    return response


async def give_reply(asked: Asked | SettleReply, encode: Encode, receive: Receive) -> Given:
    """Settle what is asked, and wait as long as the client does; `encode` writes a reply as it will
    be sent. Returns the reply and its body, to be sent at once. An outage is a refusal like any
    other; what is a reply already is only written.
    """
    if isinstance(asked, SettleReply):
        return asked, await encode(asked)
    settler, request = asked
    waiter = Waiter()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_hang_up_with_client, receive, waiter)
        try:
            async with settler.settle(request, waiter) as settling:
                told, body = settling.reply, await encode(settling.reply)
                given = await settling.deliver(body)
        except (ChainUnavailable, StoreError) as fault:
            told = given = outage_reply(fault)
            body = await encode(given)
        tasks.cancel_scope.cancel()
    return given, body if given is told else await encode(given)


async def _hang_up_with_client(receive: Receive, waiter: Waiter) -> None:
    """Once the request's body is read, all that can come is that the client goes away."""
    while (await receive())["type"] != "http.disconnect":
        pass
    waiter.hang_up()


def outage(fault: Exception) -> tuple[Refusal, float]:
    """What is out of reach, and the seconds after which to ask again."""
    if isinstance(fault, ChainUnavailable):
        return Refusal(Reason.CHAIN_UNAVAILABLE), fault.retry_after or RETRY_AFTER
    return Refusal(Reason.STORE_UNAVAILABLE), RETRY_AFTER


def outage_reply(fault: Exception) -> SettleReply:
    """The same as a reply to POST /settle."""
    refusal, retry_after = outage(fault)
    return SettleReply(refusal=refusal, retry_after=retry_after)


def refuse(body: bytes, refusal: Refusal, retry_after: float | None = None) -> Response:
    """A reply that says no; 200 unless the request or this service is at fault."""
    if refusal.reason in TEMPORARY:
        retry_after = retry_after or RETRY_AFTER
    return reply(body, _STATUS.get(refusal.reason, 200), retry_after)
