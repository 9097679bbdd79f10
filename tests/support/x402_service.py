"""What tests ask of the service in the standard dialect. `tests.support.x402` makes the
payments.
"""

import json
from collections.abc import Mapping
from typing import Any

from eth_utils.address import to_checksum_address
from msgspec import Struct

from facilitator.commands.devnet import Account, Devnet
from tests.support.encoding import calldata
from tests.support.service import Service
from tests.support.x402 import Token, payload_of

USED = "invalid_exact_evm_nonce_already_used"
DUPLICATE = "duplicate_settlement"
PENDING = "settlement_pending"
SIGNATURE = "invalid_exact_evm_signature"
BALANCE = "invalid_exact_evm_insufficient_balance"
EXPIRED = "invalid_exact_evm_payload_authorization_valid_before"
EARLY = "invalid_exact_evm_payload_authorization_valid_after"
MISMATCH = "invalid_exact_evm_transfer_event_mismatch"
TOO_MANY_BLOCKS = 20  # enough that a failure is final: no reorg would undo it


class Reply(Struct, frozen=True):
    """A reply as it came."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def members(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found


async def post(
    service: Service, path: str, body: object, key: str | None = None, **headers: str
) -> Reply:
    """Post JSON, or bytes as they are, under an Idempotency-Key where one is given."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    if key is not None:
        headers["Idempotency-Key"] = key
    async with service.session.post(service.url + path, data=data, headers=headers) as response:
        return Reply(response.status, response.headers, await response.read())


async def verify(service: Service, body: object, status: int = 200) -> dict[str, Any]:
    """The reply of POST /verify, whose shape no outcome changes."""
    got = await post(service, "/verify", body)
    reply = got.members
    assert got.status == status, reply
    assert isinstance(reply["payer"], str)
    assert reply["isValid"] is ("invalidReason" not in reply)
    assert set(reply) <= {"isValid", "invalidReason", "invalidMessage", "payer"}
    return reply


async def settle(
    service: Service, body: object, status: int = 200, key: str | None = None
) -> dict[str, Any]:
    """The reply of POST /settle, whose shape no outcome changes."""
    got = await post(service, "/settle", body, key)
    reply = got.members
    assert got.status == status, reply
    assert_settle_shape(reply)
    return reply


def assert_settle_shape(reply: dict[str, Any]) -> None:
    for member in ("payer", "transaction", "network"):
        assert isinstance(reply[member], str), reply
    assert reply["success"] is ("errorReason" not in reply)
    # whoever hears of a settlement hears of its transaction; a stranger's has no settlement
    assert reply["transaction"] or "extra" not in reply, reply
    members = {"success", "errorReason", "errorMessage", "transaction", "network", "payer", "extra"}
    assert set(reply) <= members


async def refused(service: Service, body: object) -> str:
    """The one code that both endpoints refuse with, before there is a transaction of ours; who
    used the nonce otherwise is told.
    """
    verified, settled = await verify(service, body), await settle(service, body)
    used = settled["errorReason"] == "invalid_exact_evm_nonce_already_used"
    assert settled["transaction"] == "" or used
    assert (verified["isValid"], settled["success"]) == (False, False)
    assert verified["invalidReason"] == settled["errorReason"]
    assert verified["payer"] == settled["payer"]
    code: str = verified["invalidReason"]
    return code


async def stop_mining(devnet: Devnet) -> None:
    await devnet.rpc("evm_setAutomine", False)
    await devnet.rpc("evm_setIntervalMining", 0)


async def resume_mining(devnet: Devnet) -> None:
    await devnet.rpc("evm_setIntervalMining", 1)


async def nonce_of(devnet: Devnet, account: Account | None = None, block: str = "latest") -> int:
    """How many transactions of the signer (or of `account`) are mined, as of a block's tag."""
    address = "0x" + (account or devnet.signer).address.hex()
    return int(str(await devnet.rpc("eth_getTransactionCount", address, block)), 16)


async def send(devnet: Devnet, sender: Account, to: bytes, call: bytes, gas: int = 600_000) -> str:
    """Put somebody's transaction into the pool, before all of the service's; its hash."""
    transaction = {
        "from": "0x" + sender.address.hex(),
        "to": "0x" + to.hex(),
        "data": "0x" + call.hex(),
        "gas": hex(gas),
        "maxPriorityFeePerGas": hex(100 * 10**9),
        "maxFeePerGas": hex(400 * 10**9),
    }
    return str(await devnet.rpc("eth_sendTransaction", transaction))


def cancel_call(authorizer: bytes, nonce: bytes, signature: bytes) -> bytes:
    """The token's call that makes an authorization void."""
    form = "cancelAuthorization(address,bytes32,uint8,bytes32,bytes32)"
    parts = signature[64], signature[:32], signature[32:64]
    return calldata(form, authorizer, nonce, *parts)


def tokens_setting(*tokens: Token) -> str:
    """`<NETWORK>_TOKENS` for these."""
    return ",".join(
        f"{to_checksum_address(each.address)}|TST|6|{each.name}|{each.version}" for each in tokens
    )


def nonce_in(body: dict[str, Any]) -> bytes:
    text: str = payload_of(body)["authorization"]["nonce"]
    return bytes.fromhex(text[2:])
