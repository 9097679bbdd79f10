"""The HTTP interface: decode, call, encode, a handler a path."""

import math
from collections.abc import Awaitable, Callable
from typing import cast

import anyio
import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive

from facilitator import __version__
from facilitator.dialects import jeju_replies as replies
from facilitator.dialects.jeju import VERSION, JejuRequest, Malformed
from facilitator.ethereum.addresses import checksum
from facilitator.listeners import Listener
from facilitator.middleware import BodyError, read_body
from facilitator.node import ChainUnavailable
from facilitator.payments import TEMPORARY, Reason, Refusal
from facilitator.schemes.jeju import SCHEMES, JejuPayment, request_digest
from facilitator.service import Service
from facilitator.settler import SettleReply
from facilitator.store import StoreError
from facilitator.verification import check_time

# Seconds after which a client may try again what found the chain or the journal out of reach.
RETRY_AFTER = 5
_json = msgspec.json.Encoder().encode


def _service(request: Request) -> Service:
    return cast(Service, request.state.service)


def _reply(body: bytes, status: int = 200, retry_after: float | None = None) -> Response:
    response = Response(body, status, media_type="application/json")
    if retry_after is not None:
        response.headers["Retry-After"] = str(math.ceil(retry_after))
    return response


async def verify(request: Request) -> Response:
    """POST /verify: would this payment settle? Leaves no trace."""
    service = _service(request)
    try:
        body = await read_body(request.receive, request.scope["headers"])
    except BodyError as refused:
        return _reply(replies.not_verified(str(refused), service.clock()), refused.status)
    decoded = service.decoder.decode(body)
    if isinstance(decoded, Malformed):
        return _reply(replies.not_verified(decoded.words, service.clock()), decoded.status)
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
        return _reply(replies.verified(result, service.clock()))
    why = replies.words(result, decoded)
    status = 503 if result.reason in TEMPORARY else 200
    return _reply(replies.not_verified(why, service.clock()), status, retry_after)


async def settle(request: Request) -> Response:
    """POST /settle: settle this payment with the payer's allowance, and wait for the outcome."""
    return await _settle(request, gasless=False)


async def settle_gasless(request: Request) -> Response:
    """POST /settle/gasless: the same with an authorization (EIP-3009) in the allowance's stead."""
    return await _settle(request, gasless=True)


async def _settle(request: Request, *, gasless: bool) -> Response:
    service = _service(request)
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
        return _reply(replies.not_understood(decoded, service.clock()), decoded.status)
    payment, told = await _outcome(service, decoded, request.receive)
    now = service.clock()
    if told.proof is not None and payment is not None:
        fee_bps = _fee_bps(payment.amount, told.proof.fee, service.config.protocol_fee_bps)
        return _reply(replies.settled(decoded, payment, told.proof, fee_bps, now))
    refusal = told.refusal or Refusal(Reason.SETTLEMENT_PENDING)
    reply = replies.not_settled(
        decoded, refusal, now, payment=payment, transaction_hash=told.transaction_hash
    )
    unavailable = refusal.reason in TEMPORARY or refusal.reason is Reason.SIGNER_NOT_CONFIGURED
    retry_after = (told.retry_after or RETRY_AFTER) if refusal.reason in TEMPORARY else None
    return _reply(reply, 503 if unavailable else 200, retry_after)


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


async def describe_verify(request: Request) -> Response:
    """GET /verify: what to send there."""
    return _describe("/verify", "Checks a payment and leaves no trace.")


async def describe_settle(request: Request) -> Response:
    """GET /settle: what to send there."""
    return _describe("/settle", "Settles a payment on its chain and waits for the outcome.")


def _describe(path: str, description: str) -> Response:
    body = {
        "paymentHeader": "base64 of the signed payment's JSON",
        "paymentRequirements": {
            "scheme": "exact | upto",
            "network": "name of the network, the primary one by default",
            "maxAmountRequired": "decimal string, atomic units",
            "payTo": "address",
            "asset": "address of the token",
            "resource": "what is paid for",
        },
        "x402Version": VERSION,
    }
    described = {"endpoint": path, "method": "POST", "description": description, "body": body}
    return _reply(_json(described))


async def index(request: Request) -> Response:
    """GET /: what this service is and whether it can work."""
    service = _service(request)
    config = service.config
    primary = service.networks[config.primary_network]
    chain_id = primary.config.network.chain_id
    status, code = "healthy", 200
    if config.is_production and primary.config.contract is None:
        status, code = "unhealthy", 503
    elif not await primary.reachability.look():
        status = "degraded"
    contract = primary.config.contract
    description = {
        "service": config.service_name,
        "version": __version__,
        "status": status,
        "mode": config.mode,
        "chainId": chain_id,
        "network": config.primary_network,
        "facilitatorAddress": None if contract is None else checksum(contract),
        "endpoints": {
            "verify": "POST /verify",
            "settle": "POST /settle",
            "supported": "GET /supported",
            "stats": "GET /stats",
        },
        "timestamp": service.clock(),
    }
    return _reply(_json(description), code)


async def health(request: Request) -> Response:
    """GET /health: the process answers. Never depends on a chain or a database."""
    return _reply(_json({"status": "ok", "timestamp": _service(request).clock()}))


async def ready(request: Request) -> Response:
    """GET /ready: key and contract of the primary network are there, and the journal can be
    written. The state of the chain is told, but a node's outage is no reason to take replicas away.
    """
    service = _service(request)
    primary = service.networks[service.config.primary_network]
    wallet, contract = bool(service.signers), primary.config.contract is not None
    journal, rpc = True, await primary.reachability.look()
    try:
        await service.store.ping()
    except StoreError:
        journal = False
    now = service.clock()
    if wallet and contract and journal:
        return _reply(_json({"status": "ready", "rpc": rpc, "timestamp": now}))
    missing = {
        "status": "not_ready",
        "wallet": wallet,
        "facilitator": contract,
        "journal": journal,
        "rpc": rpc,
        "timestamp": now,
    }
    return _reply(_json(missing), 503)


async def supported(request: Request) -> Response:
    """GET /supported: schemes and networks. In production only those that can settle."""
    service = _service(request)
    networks = [
        name
        for name, served in service.networks.items()
        if served.settler is not None or not service.config.is_production
    ]
    body = {
        "kinds": [_kind(scheme, network) for network in networks for scheme in SCHEMES],
        "x402Version": VERSION,
        "facilitator": {
            "name": service.config.service_name,
            "version": __version__,
            "url": service.config.url,
        },
        "extensions": [],
        "signers": {"eip155:*": [checksum(address) for address in service.signers]},
    }
    return _reply(_json(body))


def _kind(scheme: str, network: str) -> dict[str, object]:
    kind: dict[str, object] = {"x402Version": VERSION, "scheme": scheme, "network": network}
    if scheme == "upto":  # the standard has another scheme of this name
        kind["extra"] = {"dialect": "jeju"}
    return kind


async def not_found(request: Request, _: Exception) -> Response:
    """Unknown paths, wrong methods and trailing slashes alike."""
    path = request.scope["path"]
    body = {"error": "Not found", "path": path, "timestamp": _service(request).clock()}
    return _reply(_json(body), 404)


Handler = Callable[[Request], Awaitable[Response]]
_HANDLERS: tuple[tuple[str, str, Handler], ...] = (
    ("GET", "/", index),
    ("GET", "/health", health),
    ("GET", "/ready", ready),
    ("GET", "/supported", supported),
    ("POST", "/verify", verify),
    ("GET", "/verify", describe_verify),
    ("POST", "/settle", settle),
    ("GET", "/settle", describe_settle),
    ("POST", "/settle/gasless", settle_gasless),
)
ROUTES = [Route(path, handler, methods=[method]) for method, path, handler in _HANDLERS]
