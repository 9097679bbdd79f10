"""What tests ask of a real chain. `tests.support.signing` makes the payments."""

from typing import Any

import pytest
from eth_abi.abi import decode
from eth_utils.abi import event_signature_to_log_topic
from msgspec import Struct

from facilitator.chain.rpc import RPCError
from facilitator.commands.contracts import Artifact, parse
from facilitator.commands.devnet import Account, Devnet
from tests.support.encoding import calldata
from tests.support.paths import ROOT
from tests.support.signing import (
    MAX_UINT256,
    encode_header,
    sign_authorization,
    sign_payment,
    unhex,
)

__all__ = [
    "MAX_UINT256",
    "approve",
    "balance",
    "deploy_legacy",
    "devnet_authorization",
    "devnet_payment",
    "encode_header",
    "is_nonce_used",
    "load_artifact",
    "read",
    "revert_data",
    "settle_call",
    "settled_logs",
    "sign_authorization",
    "sign_payment",
    "simulate",
    "unhex",
]

SETTLE_TYPES = "address,address,address,uint256,string,string,uint256,bytes"
SETTLE = f"settle({SETTLE_TYPES})"
SETTLE_WITH_AUTHORIZATION = f"settleWithAuthorization({SETTLE_TYPES},uint256,uint256,bytes32,bytes)"
PAYMENT_SETTLED = event_signature_to_log_topic(
    "PaymentSettled(bytes32,address,address,address,uint256,uint256,string,uint256)"
)


class Settled(Struct, frozen=True, kw_only=True):
    """A `PaymentSettled` log. Addresses are 20 bytes, amounts atomic units, times unix seconds."""

    contract: bytes
    payment_id: bytes
    payer: bytes
    recipient: bytes
    token: bytes
    amount: int
    protocol_fee: int
    resource: str
    timestamp: int
    transaction_hash: str
    block_number: int


def devnet_payment(
    devnet: Devnet, *, payer: Account | None = None, **changes: Any
) -> dict[str, Any]:
    """A payment of 1 USDC to the devnet's seller that settles as it is, but for `changes`."""
    arguments: dict[str, Any] = {
        "contract": devnet.contract,
        "chain_id": devnet.chain_id,
        "network": devnet.network_name,
        "asset": devnet.usdc,
        "pay_to": devnet.seller.address,
        "amount": 1_000_000,
    }
    return sign_payment((payer or devnet.payer).key, **{**arguments, **changes})


def devnet_authorization(
    devnet: Devnet, *, payer: Account | None = None, **changes: Any
) -> dict[str, Any]:
    """An authorization of 1 USDC to the devnet's contract, good as it is, but for `changes`."""
    arguments: dict[str, Any] = {
        "token": devnet.usdc,
        "domain_name": devnet.usdc_domain_name,
        "chain_id": devnet.chain_id,
        "to": devnet.contract,
        "value": 1_000_000,
    }
    return sign_authorization((payer or devnet.payer).key, **{**arguments, **changes})


def load_artifact(name: str) -> Artifact:
    """A contract that only tests deploy."""
    return parse((ROOT / "tests" / "contracts" / "artifacts" / f"{name}.json").read_bytes())


async def deploy_legacy(devnet: Devnet) -> bytes:
    """A facilitator contract as deployed before this project; network name "jeju"."""
    arguments = (devnet.deployer.address, devnet.fee_recipient.address, [devnet.usdc])
    return await devnet.deploy(load_artifact("LegacyX402Facilitator"), *arguments)


def settle_call(header: dict[str, Any], authorization: dict[str, Any] | None = None) -> bytes:
    """The contract call that settles a payment, gasless when an authorization is given."""
    payment = (
        unhex(header["payer"]),
        unhex(header["payTo"]),
        unhex(header["asset"]),
        int(header["amount"]),
        header["resource"],
        header["nonce"],
        header["timestamp"],
        unhex(header["signature"]),
    )
    if authorization is None:
        return calldata(SETTLE, *payment)
    return calldata(
        SETTLE_WITH_AUTHORIZATION,
        *payment,
        int(authorization["validAfter"]),
        int(authorization["validBefore"]),
        unhex(authorization["authNonce"]),
        unhex(authorization["authSignature"]),
    )


async def read(
    devnet: Devnet, to: bytes, signature: str, *arguments: object, returns: str = "uint256"
) -> Any:
    """The value that a view function returns; a tuple when `returns` names several types."""
    result = await simulate(devnet, devnet.signer, to, calldata(signature, *arguments))
    values = decode(returns.split(","), result)
    return values[0] if len(values) == 1 else values


async def simulate(
    devnet: Devnet, sender: Account, to: bytes, call: bytes, *, at: int | None = None
) -> bytes:
    """What the call would return, in a block of the time `at`; RPCError if it would revert."""
    transaction = {
        "from": "0x" + sender.address.hex(),
        "to": "0x" + to.hex(),
        "data": "0x" + call.hex(),
    }
    moment = {} if at is None else {"time": hex(at)}
    result = await devnet.rpc("eth_call", transaction, "latest", {}, moment)
    assert isinstance(result, str)
    return unhex(result)


async def revert_data(
    devnet: Devnet, sender: Account, to: bytes, call: bytes, *, at: int | None = None
) -> bytes:
    """What the call would revert with; fails the test if it would succeed."""
    with pytest.raises(RPCError) as refused:
        await simulate(devnet, sender, to, call, at=at)
    assert refused.value.data is not None, refused.value
    return unhex(refused.value.data)


async def approve(
    devnet: Devnet,
    owner: Account | None = None,
    amount: int = MAX_UINT256,
    *,
    spender: bytes | None = None,
    token: bytes | None = None,
) -> None:
    """Let the X402Facilitator (or `spender`) take `amount` of the owner's (the payer's) USDC."""
    call = calldata("approve(address,uint256)", spender or devnet.contract, amount)
    await devnet.transact(owner or devnet.payer, token or devnet.usdc, call)


async def balance(devnet: Devnet, address: bytes, token: bytes | None = None) -> int:
    """Atomic units of USDC (or `token`)."""
    amount: int = await read(devnet, token or devnet.usdc, "balanceOf(address)", address)
    return amount


async def is_nonce_used(devnet: Devnet, header: dict[str, Any]) -> bool:
    used: bool = await read(
        devnet,
        devnet.contract,
        "isNonceUsed(address,string)",
        unhex(header["payer"]),
        header["nonce"],
        returns="bool",
    )
    return used


async def settled_logs(devnet: Devnet, contract: bytes | None = None) -> list[Settled]:
    """Every `PaymentSettled` of the devnet's contract (or of `contract`), oldest first."""
    wanted = {
        "address": "0x" + (contract or devnet.contract).hex(),
        "fromBlock": "0x0",
        "toBlock": "latest",
        "topics": ["0x" + PAYMENT_SETTLED.hex()],
    }
    logs: Any = await devnet.rpc("eth_getLogs", wanted)
    return [_settled(log) for log in logs]


def _settled(log: dict[str, Any]) -> Settled:
    _, payment_id, payer, recipient = (unhex(topic) for topic in log["topics"])
    token, amount, protocol_fee, resource, timestamp = decode(
        ["address", "uint256", "uint256", "string", "uint256"], unhex(log["data"])
    )
    return Settled(
        contract=unhex(log["address"]),
        payment_id=payment_id,
        payer=payer[12:],
        recipient=recipient[12:],
        token=unhex(token),
        amount=amount,
        protocol_fee=protocol_fee,
        resource=resource,
        timestamp=timestamp,
        transaction_hash=log["transactionHash"],
        block_number=int(log["blockNumber"], 16),
    )
