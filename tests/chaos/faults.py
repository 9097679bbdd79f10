"""What goes wrong below the service: the chain, and the endpoints that it is seen through."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Any

from facilitator.commands.devnet import Devnet
from tests.chaos.plan import SIGNERS
from tests.support.faultproxy import (
    Fault,
    FaultProxy,
    already_known,
    delay,
    forged_receipt,
    lose_reply,
    lose_request,
    lying_nonce,
    nonce_too_low,
    replacement_underpriced,
    stale_by,
)
from tests.support.postfaults import POST_FAULTS

SHARE = 0.05  # of all POSTs meet a fault of their own
REORG_DEPTH = 2  # blocks at most
GWEI = 10**9
SEND = "eth_sendRawTransaction"
RECEIPT = "eth_getTransactionReceipt"

# One endpoint at a time lies for some seconds: the other one is there to contradict it.
CALL_FAULTS: dict[str, tuple[str, Fault]] = {
    "out of reach": ("*", lose_request),
    "replies lost": ("*", lose_reply),
    "slow": ("*", delay(1.5)),
    "stale": ("*", stale_by(3)),
    "sends lost": (SEND, lose_request),
    "send replies lost": (SEND, lose_reply),
    "sends 'nonce too low'": (SEND, nonce_too_low),
    "sends 'already known'": (SEND, already_known),
    "sends 'underpriced'": (SEND, replacement_underpriced),
    "receipts forged, success": (RECEIPT, forged_receipt(succeeded=True)),
    "receipts forged, failure": (RECEIPT, forged_receipt(succeeded=False)),
    "account nonce too high": ("eth_getTransactionCount", lying_nonce(by=3)),
    "account nonce too low": ("eth_getTransactionCount", lying_nonce(by=-3)),
}

Break = Callable[[Devnet, Random], Awaitable[None]]


async def spoil_endpoints(proxies: Sequence[FaultProxy], seed: int, seen: Counter[str]) -> None:
    """For ever: one endpoint lies, now and then all are out of reach; POSTs fail by chance."""
    random = Random(f"{seed} endpoints")  # noqa: S311 - a seed, so that it can be repeated
    for place, proxy in enumerate(proxies):
        proxy.mix(seed + place, POST_FAULTS, SHARE)
    while True:
        await asyncio.sleep(random.uniform(0.5, 6))
        name = random.choice(["all out of reach", *CALL_FAULTS])
        method, fault = CALL_FAULTS.get(name, ("*", lose_request))
        chosen = [random.choice(proxies)] if name in CALL_FAULTS else proxies
        seen[name] += 1
        for proxy in chosen:
            proxy.faults[method] = fault
        await asyncio.sleep(random.uniform(0.5, 5))
        for proxy in chosen:
            proxy.faults.clear()


async def spoil_chain(devnet: Devnet, seed: int, seen: Counter[str]) -> None:
    """For ever: blocks stop, transactions fall out of the pool, blocks leave the chain, and the
    base fee leaps.
    """
    random = Random(f"{seed} chain")  # noqa: S311
    while True:
        await asyncio.sleep(random.uniform(0.5, 4))
        name = random.choice([*CHAIN_FAULTS])
        seen[name] += 1
        await CHAIN_FAULTS[name](devnet, random)


async def _stop_mining(devnet: Devnet, random: Random) -> None:
    seconds = random.uniform(2, 7)
    await devnet.rpc("evm_setIntervalMining", 0)
    await asyncio.sleep(seconds)
    await devnet.rpc("evm_setIntervalMining", 1)


async def _drop_transactions(devnet: Devnet, random: Random) -> None:
    """Some of the signers' transactions, waited for."""
    share, signers = (
        random.uniform(0.1, 1),
        {"0x" + devnet.accounts[i].address.hex() for i in SIGNERS},
    )
    draws = [random.random() for _ in range(64)]
    for _ in range(20):
        pool: Any = await devnet.rpc("txpool_content")
        waiting = [
            transaction["hash"]
            for part in ("pending", "queued")
            for sender, queue in pool[part].items()
            if sender.lower() in signers
            for transaction in queue.values()
        ]
        if waiting:
            for transaction, drawn in zip(sorted(waiting), draws, strict=False):
                if drawn < share:
                    await devnet.rpc("anvil_dropTransaction", transaction)
            return
        await asyncio.sleep(0.05)


async def _reorg(devnet: Devnet, random: Random) -> None:
    """The newest blocks become empty ones; only the service sends their transactions again."""
    await devnet.rpc("anvil_reorg", random.randint(1, REORG_DEPTH), [])


async def _leap_of_fees(devnet: Devnet, random: Random) -> None:
    """Up to above the service's cap. Then the fee is set back: by itself it would take minutes."""
    fee, seconds = random.choice((30, 150, 700)) * GWEI, random.uniform(2, 8)
    await devnet.rpc("anvil_setNextBlockBaseFeePerGas", hex(fee))
    await asyncio.sleep(seconds)
    await devnet.rpc("anvil_setNextBlockBaseFeePerGas", hex(GWEI))


CHAIN_FAULTS: dict[str, Break] = {
    "mining stopped": _stop_mining,
    "transactions dropped": _drop_transactions,
    "reorg": _reorg,
    "base fee leaps": _leap_of_fees,
}


async def heal(devnet: Devnet, proxies: Sequence[FaultProxy]) -> None:
    """The faults end: blocks come, at a usual fee, and endpoints tell what they know."""
    for proxy in proxies:
        proxy.heal()
    await devnet.rpc("evm_setIntervalMining", 1)
    await devnet.rpc("anvil_setNextBlockBaseFeePerGas", hex(GWEI))
