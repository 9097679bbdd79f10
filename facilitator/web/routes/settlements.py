"""GET /settlements: the state of one settlement, for sellers who reconcile and operators.

No signature is shown. An id cannot be guessed; the other ways to ask use what is public on the
chain.
"""

import re

from starlette.requests import Request
from starlette.responses import Response

from facilitator.chain.answers import ChainUnavailable, to_hex
from facilitator.dialects.fields import hex_bytes
from facilitator.domain.payment import Proof
from facilitator.domain.schemes import eip3009, jeju, scheme_of
from facilitator.domain.settlement import Transaction
from facilitator.ethereum.addresses import checksum, parse_address
from facilitator.journal.store import SettlementRecord, StoreError
from facilitator.web.replies import RETRY_AFTER, json_reply, service_of
from facilitator.web.service import Served, Service

_ID = re.compile(r"\A[0-9a-f]{32}\Z")


async def by_id(request: Request) -> Response:
    """GET /settlements/{id}: by its id, or by the hash of a transaction of it."""
    service, name = service_of(request), str(request.path_params["id"])
    try:
        record = await _find(service, name)
        return _not_found() if record is None else await _described(service, record)
    except StoreError:
        return _unavailable()


async def by_payment(request: Request) -> Response:
    """GET /settlements?network=&asset=&payer=&nonce=: by the nonce that the payment uses up.

    With `asset` a nonce of 32 bytes (0x hex) is looked up as the asset's (EIP-3009), then as one of
    the network's X402Facilitator contract; any other nonce only as the contract's.
    """
    service, query = service_of(request), request.query_params
    served = _served(service, query.get("network"))
    nonce = query.get("nonce", "")
    if served is None:
        return _refuse("network must name a network that is served here")
    if not nonce:
        return _refuse("nonce is missing")
    try:
        payer = parse_address(query.get("payer", ""))
        asset = parse_address(query["asset"]) if query.get("asset") else None
    except ValueError as error:
        return _refuse(f"payer or asset: {error}")
    keys = _keys(served, asset, payer, nonce)
    try:
        for key in keys:
            found = await service.store.find(key)
            record = None if found is None else await service.store.get(found.id)
            if record is not None:
                return await _described(service, record)
    except StoreError:
        return _unavailable()
    return _not_found()


async def _find(service: Service, name: str) -> SettlementRecord | None:
    if _ID.match(name):
        return await service.store.get(name)
    transaction_hash = hex_bytes(name, 32)
    if transaction_hash is not None:
        found = await service.store.find_transaction(transaction_hash)
        return None if found is None else await service.store.get(found.id)
    return None


def _served(service: Service, network: str | None) -> Served | None:
    """Return the network with this name or CAIP-2 name; None where it is not served."""
    for name, served in service.networks.items():
        if network in (name, served.config.network.caip2):
            return served
    return None


def _keys(served: Served, asset: bytes | None, payer: bytes, nonce: str) -> list[str]:
    chain_id, contract = served.config.network.chain_id, served.config.contract
    keys = []
    authorization_nonce = hex_bytes(nonce, 32)
    if asset is not None and authorization_nonce is not None:
        keys.append(eip3009.authorization_key(chain_id, asset, payer, authorization_nonce))
    if contract is not None:
        keys.append(jeju.nonce_key(chain_id, contract, payer, nonce))
    return keys


async def _described(service: Service, record: SettlementRecord) -> Response:
    settlement, payment = record.settlement, record.settlement.payment
    by_chain = {each.config.network.chain_id: each for each in service.networks.values()}
    served = by_chain.get(payment.chain_id)
    proof = settlement.proof
    described: dict[str, object] = {
        "settlementId": settlement.id,
        "state": settlement.state,
        "dialect": settlement.dialect,
        "network": None if served is None else served.config.network.name,
        "chainId": payment.chain_id,
        "asset": checksum(payment.asset),
        "payer": checksum(payment.payer),
        "payTo": checksum(payment.pay_to),
        "amount": str(payment.amount),
        "nonce": scheme_of(payment).nonce_text(payment),
        "reason": None if settlement.refusal is None else settlement.refusal.reason,
        "transaction": None if proof is None else to_hex(proof.transaction_hash),
        "blockNumber": None if proof is None else proof.block_number,
        "confirmations": await _confirmations(served, proof),
        "transactions": [_transaction(each) for each in record.transactions],
        "createdAt": settlement.created_at,
        "updatedAt": settlement.updated_at,
        "successToldAt": settlement.replied_success_at,
        "timestamp": service.clock(),
    }
    return json_reply(described)


async def _confirmations(served: Served | None, proof: Proof | None) -> int | None:
    """Return the number of blocks from the proof's to the latest, both included; None where that is
    not known.
    """
    if served is None or proof is None:
        return None
    try:
        head = await served.chain.head()
    except ChainUnavailable:
        return None
    return max(head.number - proof.block_number + 1, 0)


def _transaction(transaction: Transaction) -> dict[str, object]:
    return {
        "signer": checksum(transaction.signer),
        "accountNonce": transaction.account_nonce,
        "state": transaction.state,
        "blockNumber": transaction.block_number,
        "gasCost": None if transaction.gas_cost is None else str(transaction.gas_cost),
        "attempts": [
            {
                "transaction": to_hex(attempt.hash),
                "maxFeePerGas": str(attempt.fees.max_fee_per_gas),
                "maxPriorityFeePerGas": str(attempt.fees.max_priority_fee_per_gas),
                "signedAt": attempt.signed_at,
            }
            for attempt in transaction.attempts
        ],
    }


def _refuse(error: str) -> Response:
    return json_reply({"error": error}, 400)


def _not_found() -> Response:
    return json_reply({"error": "No such settlement"}, 404)


def _unavailable() -> Response:
    return json_reply({"error": "Settlement journal unavailable"}, 503, RETRY_AFTER)
