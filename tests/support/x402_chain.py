"""What payments of the standard dialect meet on a chain: smart wallets, their factory, accounts
that delegate by EIP-7702, tokens that do wrong; and how to see there what moved.
`tests.support.x402` makes the payments.
"""

import asyncio
from enum import IntEnum
from typing import Any

from eth_abi.abi import decode, encode
from eth_account import Account as Keys
from eth_utils.abi import function_signature_to_4byte_selector
from eth_utils.address import to_checksum_address
from msgspec import Struct

from facilitator.commands.devnet import Account, Devnet
from tests.support.chain import load_artifact, read, revert_data
from tests.support.encoding import AUTHORIZATION_USED, SPLIT, TRANSFER, WHOLE, calldata, refusal
from tests.support.signing import unhex
from tests.support.x402 import Reshape, Token, wrap_6492

FUNDS = 10_000_000  # atomic units for every payer that is made here
NOBODY = bytes(20)
RECEIPT_POLL = 0.005  # seconds
RECEIPT_TIMEOUT = 90.0  # seconds


class Behaviour(IntEnum):
    """What a `RogueWallet` answers when it is asked about a signature."""

    BURN_GAS = 0
    REVERT = 1
    REVERT_HUGE = 2
    WRONG_MAGIC = 3
    DIRTY_MAGIC = 4
    SHORT_ANSWER = 5
    HUGE_ANSWER = 6


class Fault(IntEnum):
    """What a `FaultyToken` does wrong once it has found an authorization good."""

    NO_TRANSFER = 0
    SILENCE = 1
    FEE = 2
    WRONG_RECIPIENT = 3
    TRANSFER_FIRST = 4
    FOREIGN_EVENT = 5
    REFUSAL = 6


class Counterfactual(Struct, frozen=True):
    """A wallet that is not deployed yet, and the call of its factory that deploys it."""

    address: bytes
    factory: bytes
    call: bytes

    @property
    def wrap(self) -> Reshape:
        """What its owner's signature has to become (EIP-6492)."""
        return wrap_6492(self.factory, self.call)


class Transfer(Struct, frozen=True):
    """A `Transfer` log of a token; `value` in atomic units."""

    sender: bytes
    recipient: bytes
    value: int
    transaction_hash: str


class Used(Struct, frozen=True):
    """An `AuthorizationUsed` log of a token."""

    authorizer: bytes
    authorization_nonce: bytes
    transaction_hash: str


async def deploy_wallet(devnet: Devnet, owner: Account) -> bytes:
    """A smart wallet with USDC that the owner's key signs for."""
    wallet = await devnet.deploy(load_artifact("Wallet1271"), owner.address)
    await devnet.mint(wallet, FUNDS)
    return wallet


async def deploy_rogue_wallet(devnet: Devnet, behaviour: Behaviour) -> bytes:
    """A payer with code and USDC that misbehaves when it is asked about a signature."""
    wallet = await devnet.deploy(load_artifact("RogueWallet"), behaviour)
    await devnet.mint(wallet, FUNDS)
    return wallet


async def deploy_factory(devnet: Devnet) -> bytes:
    return await devnet.deploy(load_artifact("WalletFactory"))


async def counterfactual(
    devnet: Devnet, factory: bytes, owner: Account, *, salt: bytes = bytes(32), once: bool = False
) -> Counterfactual:
    """A wallet with USDC where there is no code yet. With `once` the call reverts when the wallet
    is there, as some factories do; else it then does nothing, as ERC-4337 wants it.
    """
    name = "deployOnce" if once else "deploy"
    call = calldata(f"{name}(address,bytes32)", owner.address, salt)
    place = "walletOf(address,bytes32)"
    address = unhex(await read(devnet, factory, place, owner.address, salt, returns="address"))
    await devnet.mint(address, FUNDS)
    return Counterfactual(address, factory, call)


async def deployed_by(devnet: Devnet, wallet: Counterfactual) -> bytes:
    """Who called the factory for this wallet; zeros when nobody has."""
    sender = await read(
        devnet, wallet.factory, "deployedBy(address)", wallet.address, returns="address"
    )
    return unhex(sender)


async def deploy_token(
    devnet: Devnet,
    contract: str = "AuthorizationToken",
    *arguments: object,
    name: str = "Test Dollar",
    version: str = "1",
    decimals: int = 6,
) -> Token:
    """Another token with EIP-3009, and some of it with the payer. `contract` is
    "AuthorizationToken", "SplitSignatureToken" (no `bytes` overload), or "FaultyToken" with its
    Fault.
    """
    artifact = load_artifact(contract)
    token = Token(await devnet.deploy(artifact, name, version, decimals, *arguments), name, version)
    await mint(devnet, token, devnet.payer.address)
    return token


async def mint(devnet: Devnet, token: Token, to: bytes) -> None:
    """Some of a token that lets anybody mint."""
    call = calldata("mint(address,uint256)", to, FUNDS)
    await devnet.transact(devnet.deployer, token.address, call)


async def code_at(devnet: Devnet, address: bytes) -> bytes:
    code: Any = await devnet.rpc("eth_getCode", "0x" + address.hex(), "latest")
    return unhex(code)


async def delegate(devnet: Devnet, account: Account, code: bytes = NOBODY) -> None:
    """Let an account delegate to a contract's code (EIP-7702), or to none again. The deployer pays
    for the transaction.
    """
    sender = devnet.deployer
    assert account.address != sender.address, "its nonce would have moved on"
    authorization = Keys.sign_authorization(
        {
            "chainId": devnet.chain_id,
            "address": to_checksum_address(code),
            "nonce": await _account_nonce(devnet, account),
        },
        account.key,
    )
    signed = Keys.sign_transaction(
        {
            "type": 4,
            "chainId": devnet.chain_id,
            "nonce": await _account_nonce(devnet, sender),
            # not the account: from now on its code answers
            "to": to_checksum_address(sender.address),
            "value": 0,
            "gas": 200_000,
            "maxFeePerGas": 10**11,
            "maxPriorityFeePerGas": 10**9,
            "authorizationList": [authorization],
        },
        sender.key,
    )
    sent = await devnet.rpc("eth_sendRawTransaction", "0x" + signed.raw_transaction.hex())
    async with asyncio.timeout(RECEIPT_TIMEOUT):
        while True:
            receipt = await devnet.rpc("eth_getTransactionReceipt", sent)
            if isinstance(receipt, dict):
                break
            await asyncio.sleep(RECEIPT_POLL)
    assert receipt["status"] == "0x1", receipt


async def _account_nonce(devnet: Devnet, account: Account) -> int:
    count: Any = await devnet.rpc(
        "eth_getTransactionCount", "0x" + account.address.hex(), "pending"
    )
    return int(count, 16)


def transfer_call(payload: dict[str, Any], form: str | None = None) -> bytes:
    """The token's call for a signed payload, in the overload that fits the signature: `SPLIT` for
    65 bytes, else `WHOLE`.
    """
    authorization, signature = payload["authorization"], unhex(payload["signature"])
    if form is None:
        form = SPLIT if len(signature) == 65 else WHOLE
    parts: tuple[object, ...] = (signature,)
    if form == SPLIT:
        parts = signature[64], signature[:32], signature[32:64]
    return calldata(
        form,
        unhex(authorization["from"]),
        unhex(authorization["to"]),
        int(authorization["value"]),
        int(authorization["validAfter"]),
        int(authorization["validBefore"]),
        unhex(authorization["nonce"]),
        *parts,
    )


def aggregate3_call(*calls: tuple[bytes, bytes]) -> bytes:
    """Multicall3's call that makes all of these (target, call), or none."""
    name = function_signature_to_4byte_selector("aggregate3((address,bool,bytes)[])")
    triples = [(target, False, call) for target, call in calls]
    return bytes(name) + encode(["(address,bool,bytes)[]"], [triples])


async def pay(devnet: Devnet, payload: dict[str, Any], form: str | None = None) -> dict[str, Any]:
    """Have the signer make the USDC's call; its receipt."""
    return await devnet.transact(devnet.signer, devnet.usdc, transfer_call(payload, form))


async def refused(devnet: Devnet, payload: dict[str, Any], form: str | None = None) -> bytes:
    """What the USDC's call reverts with; fails the test if it would pay."""
    call = transfer_call(payload, form)
    return await revert_data(devnet, devnet.signer, devnet.usdc, call)


INVALID = refusal("FiatTokenV2: invalid signature")


async def authorization_used(
    devnet: Devnet, payload: dict[str, Any], token: Token | None = None
) -> bool:
    """What the token says of an authorization's nonce."""
    authorization = payload["authorization"]
    used: bool = await read(
        devnet,
        token.address if token else devnet.usdc,
        "authorizationState(address,bytes32)",
        unhex(authorization["from"]),
        unhex(authorization["nonce"]),
        returns="bool",
    )
    return used


async def transfers(devnet: Devnet, token: Token | None = None) -> list[Transfer]:
    """Every movement of USDC (or of `token`), oldest first; what was minted is left out."""
    found = []
    for log in await _logs(devnet, token, TRANSFER):
        sender, recipient = (unhex(topic)[12:] for topic in log["topics"][1:])
        (value,) = decode(["uint256"], unhex(log["data"]))
        if sender != NOBODY:
            found.append(Transfer(sender, recipient, value, log["transactionHash"]))
    return found


async def authorizations_used(devnet: Devnet, token: Token | None = None) -> list[Used]:
    """Every use of an authorization of USDC (or of `token`), oldest first."""
    found = []
    for log in await _logs(devnet, token, AUTHORIZATION_USED):
        authorizer, nonce = (unhex(topic) for topic in log["topics"][1:])
        found.append(Used(authorizer[12:], nonce, log["transactionHash"]))
    return found


async def _logs(devnet: Devnet, token: Token | None, topic: bytes) -> list[dict[str, Any]]:
    wanted = {
        "address": "0x" + (token.address if token else devnet.usdc).hex(),
        "fromBlock": "0x0",
        "toBlock": "latest",
        "topics": ["0x" + topic.hex()],
    }
    logs: Any = await devnet.rpc("eth_getLogs", wanted)
    return list(logs)
