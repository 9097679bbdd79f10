"""The routes that describe the service: what it is, its health, what it supports, its metrics."""

from starlette.requests import Request
from starlette.responses import Response

from facilitator import __version__
from facilitator.chain.answers import ChainUnavailable
from facilitator.config.settings import NetworkConfig
from facilitator.dialects.jeju.decode import VERSION
from facilitator.domain.schemes import jeju
from facilitator.ethereum.addresses import ZERO_ADDRESS, checksum
from facilitator.telemetry.metrics import CONTENT_TYPE
from facilitator.web.replies import RETRY_AFTER, json_reply, not_found, service_of
from facilitator.web.service import Served


async def describe_verify(request: Request) -> Response:
    """GET /verify: what to send there."""
    return _describe("/verify", "Checks a payment and leaves no trace.")


async def describe_settle(request: Request) -> Response:
    """GET /settle: what to send there."""
    return _describe("/settle", "Settles a payment on its chain and waits for the outcome.")


def _describe(path: str, description: str) -> Response:
    described: dict[str, object] = {
        "endpoint": path,
        "method": "POST",
        "description": description,
        "body": {
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
        },
        "standardBody": {
            "paymentPayload": "what the payer's client sent, decoded (x402 version 1 or 2)",
            "paymentRequirements": "the requirements that it answers",
        },
    }
    return json_reply(described)


async def index(request: Request) -> Response:
    """GET /: what this service is and whether it can work."""
    service = service_of(request)
    config = service.config
    primary = service.networks[config.primary_network]
    chain_id = primary.config.network.chain_id
    status, code = "healthy", 200
    if config.is_production and primary.config.contract is None:
        status, code = "unhealthy", 503
    elif not await primary.reachable.look():
        status = "degraded"
    contract = primary.config.contract
    description = {
        "service": config.service_name,
        "version": __version__,
        "status": status,
        "mode": config.mode,
        "chainId": chain_id,
        "network": config.primary_network,
        "facilitatorAddress": _address(contract),
        "endpoints": {
            "verify": "POST /verify",
            "settle": "POST /settle",
            "supported": "GET /supported",
            "stats": "GET /stats",
        },
        "timestamp": service.clock(),
    }
    return json_reply(description, code)


async def health(request: Request) -> Response:
    """GET /health: does the process answer, with no network's loop stuck? It never depends on a
    chain or a database: a loop that waits for a node within its deadlines is not stuck.
    """
    service = service_of(request)
    stuck = [
        name
        for name, served in service.networks.items()
        if served.loop is not None and served.loop.tally.is_stuck
    ]
    if stuck:
        return json_reply({"status": "stuck", "networks": stuck, "timestamp": service.clock()}, 503)
    return json_reply({"status": "ok", "timestamp": service.clock()})


async def ready(request: Request) -> Response:
    """GET /ready: has the primary network a key and a contract, and can the journal be written? The
    reply also shows whether the chain answers, which counts only with READY_REQUIRES_RPC: a node's
    outage is no reason to take replicas out of service. A service that stops no longer listens, so
    that nobody gets a reply.
    """
    service = service_of(request)
    primary = service.networks[service.config.primary_network]
    wallet, contract = bool(service.signers), primary.config.contract is not None
    journal, rpc = await service.writable.look(), await primary.reachable.look()
    now = service.clock()
    chain = rpc or not service.config.ready_requires_rpc
    if wallet and contract and journal and chain:
        return json_reply({"status": "ready", "rpc": rpc, "timestamp": now})
    missing = {
        "status": "not_ready",
        "wallet": wallet,
        "facilitator": contract,
        "journal": journal,
        "rpc": rpc,
        "timestamp": now,
    }
    return json_reply(missing, 503)


async def supported(request: Request) -> Response:
    """GET /supported: the schemes and networks of both dialects in one list, in production only
    those that can settle.

    An entry of version 1 and scheme exact is for both dialects, which share the network's name. One
    for Jeju alone has `extra`, since official clients take every entry for theirs. One for the
    standard dialect alone has no `extra`, as in the lists of the official facilitators.
    """
    service = service_of(request)
    kinds = [
        kind
        for served in service.networks.values()
        for kind in _kinds(served, production=service.config.is_production)
    ]
    body = {
        "kinds": kinds,
        "x402Version": VERSION,
        "facilitator": {
            "name": service.config.service_name,
            "version": __version__,
            "url": service.config.url,
        },
        "extensions": [],
        "signers": {"eip155:*": [checksum(address) for address in service.signers]},
    }
    return json_reply(body)


def _kinds(served: Served, *, production: bool) -> list[dict[str, object]]:
    network = served.config.network
    settles = served.settler is not None or not production
    by_contract = settles and (served.config.contract is not None or not production)
    standard = settles and served.takes_x402
    kinds: list[dict[str, object]] = []
    if by_contract or standard:
        exact: dict[str, object] = {"x402Version": 1, "scheme": "exact", "network": network.name}
        kinds.append(exact if standard else {**exact, "extra": {"dialect": "jeju"}})
    if by_contract:
        # the standard has another scheme of this name
        upto: dict[str, object] = {"x402Version": 1, "scheme": "upto", "network": network.name}
        kinds.append({**upto, "extra": {"dialect": "jeju"}})
    if standard:
        kinds.append({"x402Version": 2, "scheme": "exact", "network": network.caip2})
    return kinds


async def stats(request: Request) -> Response:
    """GET /stats: the contract's totals on the primary network."""
    service = service_of(request)
    config = service.config
    primary = service.networks[config.primary_network]
    try:
        state = await _contract_state(primary)
    except LookupError as fault:
        return json_reply({"error": f"Failed to fetch stats: {fault}"}, 500)
    except ChainUnavailable as fault:
        error: dict[str, object] = {"error": "Chain unavailable", "timestamp": service.clock()}
        return json_reply(error, 503, fault.retry_after or RETRY_AFTER)
    fee_recipient = state.fee_recipient if state else config.fee_recipient
    usdc = primary.config.usdc
    now = service.clock()
    return json_reply(
        {
            "totalSettlements": str(state.settlements if state else 0),
            "totalVolumeUSD": str(state.volume_usd if state else 0),
            "protocolFeeBps": state.fee_bps if state else config.protocol_fee_bps,
            "feeRecipient": _address(fee_recipient),
            "supportedTokens": [_address(None if usdc is None else usdc.address)],
            "uptime": (now - service.started_at) // 1000,
            "timestamp": now,
        }
    )


async def _contract_state(served: Served) -> jeju.ContractState | None:
    """Read the contract's totals; None where none is configured. Raises ChainUnavailable, and
    LookupError where there is no such contract at its address: its totals are unknown, not zero.
    """
    contract = served.config.contract
    if contract is None:
        return None
    [answer] = await served.chain.read([jeju.stats_call(contract)])
    state = jeju.read_stats(answer)
    if state is None:
        raise LookupError(f"no X402Facilitator at {checksum(contract)}")
    return state


async def supported_networks(request: Request) -> Response:
    """GET /supported/networks: where payments can be made, and through which contract."""
    networks = service_of(request).networks.values()
    return json_reply({"networks": [_network(served.config) for served in networks]})


def _network(config: NetworkConfig) -> dict[str, object]:
    return {
        "network": config.network.name,
        "chainId": config.network.chain_id,
        "name": config.network.title,
        "usdc": _address(None if config.usdc is None else config.usdc.address),
        "facilitator": _address(config.contract),
        "blockExplorer": config.network.explorer,
    }


async def supported_tokens(request: Request) -> Response:
    """GET /supported/tokens/{network}: USDC where it is known, the other tokens, then the native
    currency.
    """
    name = request.path_params["network"]
    served = service_of(request).networks.get(name)
    if served is None:
        return json_reply({"error": f"Unsupported network: {name}"}, 400)
    network, usdc = served.config.network, served.config.usdc
    tokens: list[dict[str, object]] = []
    for token in served.config.tokens:
        # what wallets show, also where the name in the domain of USDC is another
        shown = "USD Coin" if token == usdc else token.name
        tokens.append(_token(token.address, token.symbol, token.decimals, shown))
    native = (network.native_symbol, network.native_decimals, network.native_name)
    tokens.append(_token(ZERO_ADDRESS, *native))
    return json_reply({"network": name, "tokens": tokens})


def _token(address: bytes, symbol: str, decimals: int, name: str) -> dict[str, object]:
    return {"address": checksum(address), "symbol": symbol, "decimals": decimals, "name": name}


async def metrics(request: Request) -> Response:
    """GET /metrics: Prometheus' text format, from memory alone."""
    service = service_of(request)
    if not service.config.metrics:
        return not_found(request.scope["path"])
    uptime = (service.clock() - service.started_at) // 1000
    return Response(service.metrics.render(uptime), media_type=CONTENT_TYPE)


def _address(address: bytes | None) -> str:
    """Return an address with its checksum; for None the zero address, which Jeju clients expect."""
    return checksum(ZERO_ADDRESS if address is None else address)
