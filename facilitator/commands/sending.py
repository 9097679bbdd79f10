"""Sends one transaction for a command: plans, signs and sends it, and waits for its receipt.

The service never sends this way: it has a journal, and replaces a transaction that is stuck. Here
the transaction's hash is printed before a node gets its bytes, so that the user can look it up
whatever happens next.
"""

import asyncio
import sys
import time
from contextlib import suppress

from msgspec import Struct

from facilitator.chain.answers import ChainUnavailable, NodeFault, to_hex
from facilitator.chain.client import Chain, Reverted
from facilitator.config.networks import Network
from facilitator.dialects.jeju.encode import human
from facilitator.ethereum.abi import Call
from facilitator.ethereum.addresses import checksum
from facilitator.ethereum.fees import GWEI, Fees, initial_fees
from facilitator.ethereum.receipts import Receipt
from facilitator.ethereum.secp256k1 import Signer
from facilitator.ethereum.transactions import SignedTransaction, TransactionBuilder

RECEIPT_POLL = 0.5  # seconds
PROGRESS_EVERY = 10.0  # seconds
GAS_CAP = 500_000  # an approval takes 50 k, and up to this much with a token that does more


class JobFailed(Exception):
    """A command cannot do what was asked; its text is one line that says why. Exit code 1."""


class Plan(Struct, frozen=True):
    """One transaction of `sender`, ready to be signed. The fees are in wei per gas."""

    call: Call
    sender: bytes
    gas_limit: int
    fees: Fees
    account_nonce: int
    balance: int  # wei of the sender

    @property
    def most(self) -> int:
        """The most that its gas may cost, in wei. An OP-stack chain adds a fee for data on L1,
        which is not known in advance.
        """
        return self.gas_limit * self.fees.max_fee_per_gas


def say(text: str) -> None:
    """Print a line of progress to standard error; standard output is for the result."""
    print(text, file=sys.stderr, flush=True)


async def expect_chain(chain: Chain, network: Network) -> None:
    """Raise JobFailed unless the node is one of this network."""
    chain_id = await chain.chain_id()
    if chain_id != network.chain_id:
        raise JobFailed(
            f"the node of {network.name} is on chain id {chain_id}, expected {network.chain_id}"
        )


async def plan(
    chain: Chain, call: Call, sender: bytes, *, max_fee_per_gas: int, gas_cap: int = GAS_CAP
) -> Plan:
    """Plan the transaction that makes `call`. Raises JobFailed where the call would revert, where
    its fees exceed `max_fee_per_gas` (wei), and where the sender has pending transactions: then
    another program uses the key, and the two would take each other's account nonces.
    """
    prepared = await chain.prepare(call, sender, gas_cap)
    if isinstance(prepared, Reverted):
        reason = f" (it reverts with {to_hex(prepared.data[:68])})" if prepared.data else ""
        raise JobFailed(f"the chain refuses the transaction{reason}")
    waiting = await chain.account_nonce(sender, "pending") - prepared.account_nonce
    if waiting > 0:
        raise JobFailed(
            f"{checksum(sender)} has {waiting} transactions waiting to be mined: try again when"
            " they are"
        )
    fees = initial_fees(prepared.market, max_fee_per_gas)
    if fees is None:
        raise JobFailed(
            f"the network asks for {human(prepared.market.base_fee, 9)} gwei, more than"
            f" MAX_FEE_PER_GAS_GWEI allows ({max_fee_per_gas // GWEI})"
        )
    return Plan(call, sender, prepared.gas_limit, fees, prepared.account_nonce, prepared.balance)


def expect_money(planned: Plan, network: Network) -> None:
    """Raise JobFailed unless the sender can pay for the gas."""
    if planned.balance < planned.most:
        raise JobFailed(
            f"{checksum(planned.sender)} has {money(planned.balance, network)} on {network.name},"
            f" the gas may cost {money(planned.most, network)}"
        )


def money(wei: int, network: Network) -> str:
    """Return an amount of the network's own currency with its symbol, such as "0.1 ETH"."""
    return f"{human(wei, network.native_decimals)} {network.native_symbol}"


async def send(chain: Chain, chain_id: int, signer: Signer, planned: Plan) -> SignedTransaction:
    """Sign a planned transaction, print its hash, and send it. Raises JobFailed where a node
    refuses it. No answer from any node is no error: the transaction may have been sent.
    """
    call = planned.call
    builder = TransactionBuilder(chain_id, frozenset({(call.target, call.selector)}))
    signed = builder.sign(
        signer,
        account_nonce=planned.account_nonce,
        call=call,
        gas_limit=planned.gas_limit,
        fees=planned.fees,
    )
    say(f"transaction {to_hex(signed.hash)}")
    fault = await chain.broadcast(signed.raw)
    if fault is None:
        say("sent, waiting for its block")
    elif fault is NodeFault.UNAVAILABLE:
        say("no node answered; it may have been sent all the same, so waiting for its block")
    elif signed.hash not in await chain.receipts([signed.hash]):
        # A second endpoint calls the nonce too low when the first one's answer was lost.
        raise JobFailed(f"the node refused the transaction: {fault.value.replace('_', ' ')}")
    return signed


async def receipt(chain: Chain, transaction_hash: bytes, timeout: float) -> Receipt | None:
    """Wait for a transaction's receipt; return None after `timeout` seconds without one. Raises
    JobFailed where the transaction reverted.
    """
    started = printed = time.monotonic()
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout):
            while True:
                with suppress(ChainUnavailable):  # the next turn asks again
                    mined = (await chain.receipts([transaction_hash])).get(transaction_hash)
                    if mined is not None:
                        return _succeeded(mined)
                now = time.monotonic()
                if now - printed >= PROGRESS_EVERY:
                    say(f"still waiting, {now - started:.0f} of {timeout:.0f} s")
                    printed = now
                await asyncio.sleep(RECEIPT_POLL)
    return None


def _succeeded(mined: Receipt) -> Receipt:
    if not mined.succeeded:
        raise JobFailed(f"transaction {to_hex(mined.transaction_hash)} was mined and reverted")
    return mined
