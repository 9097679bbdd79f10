"""Verify and settle: decode, call, encode."""

import anyio
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive

from facilitator.dialects import jeju_replies as replies
from facilitator.dialects.jeju import JejuRequest, Malformed
from facilitator.listeners import Listener
from facilitator.middleware import BodyError, read_body
from facilitator.networks import Unit
from facilitator.node import ChainUnavailable
from facilitator.payments import TEMPORARY, Reason, Refusal
from facilitator.routes.replying import RETRY_AFTER, reply, service_of
from facilitator.schemes.jeju import JejuPayment, recover_payer, request_digest
from facilitator.service import Service
from facilitator.settler import SettleReply
from facilitator.store import StoreError
from facilitator.verification import check_time


async def verify(request: Request) -> Response:
    """POST /verify: would this payment settle? Leaves no trace."""
    service = service_of(request)
    try:
        body = await read_body(request.receive, request.scope["headers"])
    except BodyError as refused:
        return reply(replies.not_verified(str(refused), service.clock()), refused.status)
    decoded = service.decoder.decode(body)
    if isinstance(decoded, Malformed):
        return reply(replies.not_verified(decoded.words, service.clock()), decoded.status)
    served = service.networks.get(decoded.quote.network)
    retry_after = None
    try:
        if served is None:
            result: JejuPayment | Refusal = _unserved(service, decoded)
        else:
            result = await served.verifier.verify(
                decoded.payment, decoded.claimed_payer, decoded.quote
            )
    except (ChainUnavailable, StoreError) as fault:
        result, retry_after = _outage(fault)
    if isinstance(result, JejuPayment):
        return reply(replies.verified(result, service.clock()))
    why = replies.words(result, decoded)
    status = 503 if result.reason in TEMPORARY else 200
    return reply(replies.not_verified(why, service.clock()), status, retry_after)


async def settle(request: Request) -> Response:
    """POST /settle: settle this payment with the payer's allowance, and wait for the outcome."""
    return await _settle(request, gasless=False)


async def settle_gasless(request: Request) -> Response:
    """POST /settle/gasless: the same with an authorization (EIP-3009) in the allowance's stead."""
    return await _settle(request, gasless=True)


async def _settle(request: Request, *, gasless: bool) -> Response:
    service = service_of(request)
    try:
        body = await read_body(request.receive, request.scope["headers"])
    except BodyError as refused:
        decoded: JejuRequest | Malformed = Malformed(
            status=refused.status,
            words=str(refused),
            network=service.config.primary_network,
            undetermined=True,
        )
    else:
        decoded = service.decoder.decode(body, gasless=gasless)
    if isinstance(decoded, Malformed):
        return reply(replies.not_understood(decoded, service.clock()), decoded.status)
    payment, told = await _outcome(service, decoded, request.receive)
    unit = None if payment is None else await _unit(service, decoded, payment, told)
    now = service.clock()
    if told.proof is not None and payment is not None:
        fee_bps = _fee_bps(payment.amount, told.proof.fee, service.config.protocol_fee_bps)
        return reply(replies.settled(decoded, payment, told.proof, now, fee_bps=fee_bps, unit=unit))
    refusal = told.refusal or Refusal(Reason.SETTLEMENT_PENDING)
    body = replies.not_settled(
        decoded,
        refusal,
        now,
        payment=payment,
        unit=unit,
        transaction_hash=told.transaction_hash,
    )
    unavailable = refusal.reason in TEMPORARY or refusal.reason is Reason.SIGNER_NOT_CONFIGURED
    retry_after = (told.retry_after or RETRY_AFTER) if refusal.reason in TEMPORARY else None
    return reply(body, 503 if unavailable else 200, retry_after)


async def _outcome(
    service: Service, decoded: JejuRequest, receive: Receive
) -> tuple[JejuPayment | None, SettleReply]:
    """What the request is told, with the payment from the point at which it is verified."""
    if not service.signers:
        return None, SettleReply(refusal=Refusal(Reason.SIGNER_NOT_CONFIGURED))
    served = service.networks.get(decoded.quote.network)
    if served is None:
        return None, SettleReply(refusal=_unserved(service, decoded))
    late = check_time(decoded.payment, service.clock() // 1000)
    payment = served.verifier.check_request(decoded.payment, decoded.claimed_payer, decoded.quote)
    if isinstance(payment, Refusal):
        return None, SettleReply(refusal=late or payment)
    if served.settler is None:
        return payment, SettleReply(refusal=late or Refusal(Reason.CONTRACT_NOT_CONFIGURED))
    listener = Listener()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_hang_up_with_client, receive, listener)
        try:
            told = await served.settler.settle(payment, request_digest(payment), listener)
        except (ChainUnavailable, StoreError) as fault:
            refusal, retry_after = _outage(fault)
            told = SettleReply(refusal=refusal, retry_after=retry_after)
        tasks.cancel_scope.cancel()
    return payment, told


# What is only said of a payment in a token that the contract takes.
_ASSET_TAKEN = frozenset({Reason.INSUFFICIENT_BALANCE, Reason.INSUFFICIENT_ALLOWANCE})


async def _unit(
    service: Service, decoded: JejuRequest, payment: JejuPayment, told: SettleReply
) -> Unit | None:
    """What the payment's amount is written in. Tokens that the contract does not take are not
    asked: they would be asked by whoever likes.
    """
    tokens = service.networks[decoded.quote.network].tokens
    taken = told.refusal is not None and told.refusal.reason in _ASSET_TAKEN
    if taken or told.transaction_hash is not None:
        return await tokens.unit(payment.asset)
    return tokens.recall(payment.asset)


async def _hang_up_with_client(receive: Receive, listener: Listener) -> None:
    """Once the request's body is read, all that can come is that the client goes away."""
    while (await receive())["type"] != "http.disconnect":
        pass
    listener.hang_up()


def _unserved(service: Service, decoded: JejuRequest) -> Refusal:
    late = check_time(decoded.payment, service.clock() // 1000)
    return late or Refusal(Reason.UNSUPPORTED_NETWORK)


def _outage(fault: Exception) -> tuple[Refusal, float]:
    if isinstance(fault, ChainUnavailable):
        return Refusal(Reason.CHAIN_UNAVAILABLE), fault.retry_after or RETRY_AFTER
    return Refusal(Reason.STORE_UNAVAILABLE), RETRY_AFTER


def _fee_bps(amount: int, fee: int, configured: int) -> int:
    """The contract's fee in basis points: it rounds down, so several fit a small amount. The
    configured one where it does, the smallest otherwise.
    """
    return configured if amount * configured // 10_000 == fee else -(-fee * 10_000 // amount)


async def verify_signature(request: Request) -> Response:
    """POST /verify/signature: who signed this? Neither time nor terms nor chain are looked at."""
    service = service_of(request)
    try:
        body = await read_body(request.receive, request.scope["headers"])
    except BodyError as refused:
        return reply(replies.signature_invalid(str(refused)), refused.status)
    decoded = service.decoder.decode_signed(body)
    if isinstance(decoded, Malformed):
        return reply(replies.signature_invalid(decoded.words), decoded.status)
    signer: bytes | Refusal = Refusal(Reason.UNSUPPORTED_NETWORK)
    if decoded.served is not None:
        signer = recover_payer(decoded.payment, decoded.claimed_payer)
    if isinstance(signer, Refusal):
        return reply(replies.signature_invalid(replies.signature_words(signer, decoded)))
    return reply(replies.signature_valid(decoded, signer))
