"""The embedded chain: anvil with all that a settlement needs deployed, and funded accounts."""

import asyncio
import functools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec
from eth_abi.abi import encode

from facilitator.chain.answers import to_hex
from facilitator.chain.rpc import RPC
from facilitator.commands.contracts import Artifact, creation_code, load
from facilitator.commands.devnet.anvil import find_anvil, run_anvil
from facilitator.config.networks import NETWORKS
from facilitator.domain.strict_json import JSON
from facilitator.ethereum.abi import selector
from facilitator.ethereum.addresses import checksum
from facilitator.ethereum.multicall3 import MULTICALL3
from facilitator.ethereum.secp256k1 import Signer

# anvil's own, printed by every anvil that starts: these keys are public.
MNEMONIC: Final = "test test test test test test test test test test test junk"
# Account 0 deploys from this account nonce on. A contract's address follows from its deployer's
# nonce: with this one the test USDC gets the address that network jeju has for USDC.
FIRST_NONCE: Final = 6
ACCOUNTS: Final = 10
DEFAULT_FEE_BPS: Final = 50  # what the contract starts with
MINT_GAS: Final = 150_000  # twice what a mint takes
USDC_EACH: Final = 1_000_000 * 10**6  # atomic units
RECEIPT_POLL = 0.005  # seconds; anvil mines in the background even when it mines at once
RECEIPT_TIMEOUT = 30.0  # seconds


class Account(msgspec.Struct, frozen=True):
    """One of the public test accounts. `key` is the 32-byte private key; the repr hides it."""

    role: str
    address: bytes
    key: bytes

    def __repr__(self) -> str:
        return f"Account({self.role!r}, {checksum(self.address)})"


class DevnetOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How the test chain runs."""

    chain_id: int = 420691
    host: str = "127.0.0.1"
    port: int = 9545  # 0: any free port
    block_time: int | None = 1  # seconds; None: every transaction is mined at once
    genesis_age: int = 0  # seconds since the first block, to have room for many mined at once
    accounts: int = ACCOUNTS
    network_name: str = "jeju"  # in NETWORKS; the USDC has that network's EIP-712 domain
    fee_bps: int = DEFAULT_FEE_BPS
    anvil: Path | None = None  # the binary to run; None: what find_anvil(tools) returns
    tools: Path = Path(".tools")


@functools.cache
def derive_accounts(count: int = ACCOUNTS) -> tuple[Account, ...]:
    """Return the first `count` accounts of anvil's mnemonic, at least ten. 0 deploys and owns the
    contracts, 1 signs for the service, 3 sells, 9 receives the fees, all others pay.
    """
    # Only here: eth-account computes pairings of BLS12-381 while it is imported, which takes as
    # long as all else that a command imports, and `serve` needs none of it.
    from eth_account.hdaccount import key_from_seed, seed_from_mnemonic  # noqa: PLC0415

    roles = {0: "deployer", 1: "signer", 3: "seller", 9: "fee recipient"}
    seed = seed_from_mnemonic(MNEMONIC, "")
    keys = (key_from_seed(seed, f"m/44'/60'/0'/0/{index}") for index in range(count))
    return tuple(
        Account(roles.get(index, "payer"), Signer(key).address, key)
        for index, key in enumerate(keys)
    )


class Devnet:
    """A running chain with everything deployed. Addresses are 20 bytes."""

    def __init__(
        self,
        options: DevnetOptions,
        process: asyncio.subprocess.Process,
        url: str,
        rpc: RPC,
        accounts: tuple[Account, ...],
    ) -> None:
        self._process = process
        self._rpc = rpc
        self.url = url
        self.chain_id = options.chain_id
        self.network_name = options.network_name
        self.usdc_domain_name = NETWORKS[options.network_name].usdc_domain_name
        self.accounts = accounts
        self.deployer, self.signer, self.payer, self.seller = accounts[:4]
        self.fee_recipient = accounts[9]
        self.multicall3 = MULTICALL3
        self.usdc = b""  # set by _prepare, before anybody gets to see the object
        self.contract = b""

    @classmethod
    @asynccontextmanager
    async def start(cls, options: DevnetOptions) -> AsyncIterator["Devnet"]:
        """Run a chain until the context ends. Raises AnvilError if anvil cannot run."""
        if options.accounts < ACCOUNTS:
            raise ValueError(f"a devnet has at least {ACCOUNTS} accounts")
        binary = options.anvil
        if binary is None:
            binary = await asyncio.to_thread(find_anvil, options.tools)
        accounts = derive_accounts(options.accounts)
        async with (
            run_anvil(
                binary,
                host=options.host,
                port=options.port,
                chain_id=options.chain_id,
                accounts=options.accounts,
                genesis=int(time.time()) - options.genesis_age,
            ) as (process, url),
            aiohttp.ClientSession() as session,
        ):
            rpc = RPC([url], name=options.network_name, session=session)
            devnet = cls(options, process, url, rpc, accounts)
            await devnet._prepare(options)
            yield devnet

    async def _prepare(self, options: DevnetOptions) -> None:
        """Deploy and fund while every transaction is mined at once, then set the block time."""
        await self.rpc("anvil_setLoggingEnabled", False)
        await self.rpc("anvil_setNonce", to_hex(self.deployer.address), hex(FIRST_NONCE))
        self.usdc = await self.deploy(
            load("TestUSDC"), self.deployer.address, self.usdc_domain_name
        )
        self.contract = await self.deploy(
            load("X402Facilitator"),
            self.deployer.address,
            self.fee_recipient.address,
            [self.usdc],
            options.network_name,
        )
        multicall3 = load("Multicall3").deployed_bytecode
        await self.rpc("anvil_setCode", to_hex(self.multicall3), to_hex(multicall3))
        if options.fee_bps != DEFAULT_FEE_BPS:
            fee = selector("setProtocolFee(uint256)") + encode(["uint256"], [options.fee_bps])
            await self.transact(self.deployer, self.contract, fee)
        await self._mint_to_all()
        if options.block_time is not None:
            await self.rpc("evm_setIntervalMining", options.block_time)

    async def _mint_to_all(self) -> None:
        """Mint USDC_EACH to every account in one block, with all calls of a kind in one request."""
        first = await self.rpc("eth_getTransactionCount", to_hex(self.deployer.address), "latest")
        assert isinstance(first, str)
        mints = [
            {
                "from": to_hex(self.deployer.address),
                "to": to_hex(self.usdc),
                "data": to_hex(_mint(account.address, USDC_EACH)),
                "gas": hex(MINT_GAS),
                "nonce": hex(nonce),
            }
            for nonce, account in enumerate(self.accounts, start=int(first, 16))
        ]
        # One after the other is how anvil mines at once, and these come in any order.
        await self.rpc("evm_setAutomine", False)
        sent = await asyncio.gather(*(self.rpc("eth_sendTransaction", mint) for mint in mints))
        await self.rpc("evm_mine")
        await self.rpc("evm_setAutomine", True)
        await asyncio.gather(*(self._receipt(each) for each in sent))

    def environment(self) -> dict[str, str]:
        """Return the service's environment for this chain, its (public) test keys included."""
        prefix = self.network_name.upper().replace("-", "_")
        return {
            "X402_PRIMARY_NETWORK": self.network_name,
            f"{prefix}_RPC_URL": self.url,
            f"{prefix}_USDC_ADDRESS": checksum(self.usdc),
            "X402_FACILITATOR_ADDRESS": checksum(self.contract),
            "FEE_RECIPIENT_ADDRESS": checksum(self.fee_recipient.address),
            "FACILITATOR_PRIVATE_KEY": to_hex(self.signer.key),
        }

    async def rpc(self, method: str, *params: object) -> JSON:
        """Call a JSON-RPC method and return its result. Raises RPCError or TransportError."""
        return await self._rpc.call(method, *params)

    async def deploy(self, artifact: Artifact, *arguments: object) -> bytes:
        """Deploy a contract from account 0 with the constructor's arguments; return its address."""
        code = creation_code(artifact, *arguments)
        receipt = await self.transact(self.deployer, None, code)
        return bytes.fromhex(receipt["contractAddress"].removeprefix("0x"))

    async def mint(self, to: bytes, amount: int) -> None:
        """Mint `amount` atomic units of the test USDC to `to`."""
        await self.transact(self.deployer, self.usdc, _mint(to, amount))

    async def transact(
        self, sender: Account, to: bytes | None, call: bytes, value: int = 0
    ) -> dict[str, Any]:
        """Send a transaction, signed by anvil for `sender`; return its receipt as JSON-RPC has it.

        `to` None creates a contract; `value` is in wei. Raises RPCError if it would revert.
        """
        transaction = {"from": to_hex(sender.address), "data": to_hex(call), "value": hex(value)}
        if to is not None:
            transaction["to"] = to_hex(to)
        estimate = await self.rpc("eth_estimateGas", transaction)
        assert isinstance(estimate, str)
        # The chain moves on between the estimate and the block.
        transaction["gas"] = hex(int(estimate, 16) * 5 // 4)
        return await self._receipt(await self.rpc("eth_sendTransaction", transaction))

    async def _receipt(self, transaction_hash: JSON) -> dict[str, Any]:
        """Wait for a transaction's receipt. Raises RuntimeError if it reverted."""
        async with asyncio.timeout(RECEIPT_TIMEOUT):
            while True:
                receipt = await self.rpc("eth_getTransactionReceipt", transaction_hash)
                if isinstance(receipt, dict):
                    break
                await asyncio.sleep(RECEIPT_POLL)
        if receipt["status"] != "0x1":
            raise RuntimeError(f"transaction {transaction_hash} reverted")
        return receipt

    async def ended(self) -> int:
        """Wait until anvil has ended by itself; return its exit code."""
        return await self._process.wait()


def _mint(to: bytes, amount: int) -> bytes:
    """Return the call that mints `amount` atomic units of the test USDC to `to`."""
    return selector("mint(address,uint256)") + encode(["address", "uint256"], [to, amount])
