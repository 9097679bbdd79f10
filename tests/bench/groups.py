"""What sharing a transaction saves: `python -m tests.bench.groups --help`.

A burst of payments of each dialect on blocks of a second, with and without groups: how many
transactions and how much gas a settlement takes, as the chain's own logs and receipts say. Then a
full group in which one payment's money is gone by the time that it is mined.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from msgspec import Struct

from facilitator.commands.devnet import AnvilError, Devnet
from facilitator.domain.nonces import MAX_IN_FLIGHT
from facilitator.domain.settlement import Policy
from tests.bench.processes import BenchFailed
from tests.support.bursts import (
    OPTIONS,
    Post,
    approve_all,
    gas_used,
    jeju_posts,
    jeju_proofs,
    payers,
    post_all,
    replies_of,
    x402_posts,
    x402_proofs,
)
from tests.support.chain import balance
from tests.support.encoding import calldata
from tests.support.service import Service, serve
from tests.support.x402_service import TOO_MANY_BLOCKS, resume_mining, send, stop_mining

Proofs = Callable[[Devnet], Coroutine[None, None, list[str]]]
DIALECTS: dict[str, tuple[Callable[[Devnet, int], list[Post]], Proofs]] = {
    "Jeju": (jeju_posts, jeju_proofs),
    "standard": (x402_posts, x402_proofs),
}


class Burst(Struct, frozen=True):
    """So many payments, all settled."""

    dialect: str
    batch_max: int
    payments: int
    transactions: int
    gas: int
    seconds: float

    def row(self) -> str:
        """A line of the table."""
        shared = f"{self.transactions / self.payments:.3f} | {self.gas // self.payments:,}"
        return (
            f"| {self.dialect} | {self.batch_max} | {self.payments} | {self.transactions}"
            f" | {shared} | {self.seconds:.1f} |"
        )


class Poisoned(Struct, frozen=True):
    """A group, one payment of which failed."""

    dialect: str
    members: int
    settled: int
    refused: int
    why: str

    def row(self) -> str:
        """A line of the table."""
        return f"| {self.dialect} | {self.members} | {self.settled} | {self.refused} | {self.why} |"


BURSTS = (
    "| dialect | SETTLE_BATCH_MAX | payments | transactions | transactions a payment"
    " | gas a payment | seconds |\n|---|--:|--:|--:|--:|--:|--:|"
)
POISONED = "| dialect | in the group | settled by it | refused | its reply |\n|---|--:|--:|--:|---|"


@asynccontextmanager
async def serving(batch_max: int) -> AsyncIterator[tuple[Devnet, Service]]:
    """The service, whose payments may share transactions, on a chain of its own."""
    async with Devnet.start(OPTIONS) as devnet:
        await approve_all(devnet)
        with tempfile.TemporaryDirectory() as folder:
            limits = {"SETTLE_BATCH_MAX": str(batch_max), "SETTLE_TIMEOUT_SECONDS": "240"}
            async with serve(devnet, Path(folder), **limits) as service:
                yield devnet, service


async def measure(dialect: str, batch_max: int, payments: int) -> Burst:
    """A burst on a chain of its own. Raises BenchFailed unless each payment was settled once."""
    make, proofs = DIALECTS[dialect]
    async with serving(batch_max) as (devnet, service):
        posts = make(devnet, payments)
        started = time.monotonic()
        replies = await replies_of(await post_all(service, posts))
        seconds = time.monotonic() - started
        shown = await proofs(devnet)
        settled = sum(reply["success"] for reply in replies)
        if not settled == len(shown) == payments:
            raise BenchFailed(f"{payments} payments, {settled} successes, {len(shown)} logs")
        gas = await gas_used(devnet, set(shown))
    return Burst(dialect, batch_max, payments, len(set(shown)), gas, seconds)


async def poison(dialect: str, batch_max: int) -> Poisoned:
    """A full group of as many payers, the first of whom spends all he has before it is mined.
    Raises BenchFailed unless all others are settled by that one transaction.
    """
    make, proofs = DIALECTS[dialect]
    async with serving(batch_max) as (devnet, service):
        await stop_mining(devnet)
        first = await post_all(service, make(devnet, MAX_IN_FLIGHT))
        await service.wait_for("settlement_submitted", MAX_IN_FLIGHT)
        waiting = await post_all(service, make(devnet, batch_max))
        await asyncio.sleep(3)  # no event says that one waits
        await devnet.rpc("evm_mine")
        await service.wait_for("settlement_submitted", MAX_IN_FLIGHT + batch_max)
        records = Counter(line["transaction"] for line in service.logged("settlement_submitted"))
        [(group, members)] = records.most_common(1)
        poor = payers(devnet)[0]
        left = await balance(devnet, poor.address)
        empty = calldata("transfer(address,uint256)", devnet.deployer.address, left)
        await send(devnet, poor, devnet.usdc, empty)
        await resume_mining(devnet)
        while await balance(devnet, poor.address):  # noqa: ASYNC110 - a chain has no event
            await asyncio.sleep(0.1)
        await devnet.rpc("anvil_mine", hex(TOO_MANY_BLOCKS))
        replies = await replies_of([*first, *waiting])
        settled = (await proofs(devnet)).count(group)
    refused = [reply for reply in replies if not reply["success"]]
    if len(refused) != 1 or not settled == members - 1 == batch_max - 1:
        raise BenchFailed(f"{settled} of {members} settled by the group, {len(refused)} refused")
    [one] = refused
    return Poisoned(dialect, members, settled, 1, one.get("errorReason") or one["error"])


async def measure_all(payments: int, sizes: Sequence[int]) -> str:
    """The tables: each dialect with each size, then with a poisoned payment."""
    bursts, groups = [], []
    for dialect in DIALECTS:
        for batch_max in sizes:
            print(f"{payments} payments, {dialect}, {batch_max}", file=sys.stderr, flush=True)
            bursts.append((await measure(dialect, batch_max, payments)).row())
        print(f"a poisoned group, {dialect}", file=sys.stderr, flush=True)
        groups.append((await poison(dialect, sizes[-1])).row())
    return "\n".join([BURSTS, *bursts, "", POISONED, *groups])


def main() -> int:
    """The exit code: 0 when all was measured."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.groups", description=__doc__)
    parser.add_argument("--payments", type=int, default=512, help="payments a burst (512)")
    options = parser.parse_args()
    if options.payments <= 0:
        parser.error("payments is above 0")
    try:
        print(asyncio.run(measure_all(options.payments, (1, Policy().batch_max))))
    except (BenchFailed, AnvilError) as failed:
        print(f"error: {failed}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
