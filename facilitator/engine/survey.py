"""A look at one network every now and then, for metrics: what a scrape shows is what was seen here.

The loop of a chain asks nothing while nothing is open, so that nobody would see that the nodes are
gone, or that a signer's gas money is, before the next payment comes.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio

from facilitator.chain.answers import ChainUnavailable
from facilitator.chain.client import Chain
from facilitator.domain import budget
from facilitator.domain.settlement import SettlementCounts
from facilitator.engine.signers import SignerPool
from facilitator.ethereum.fees import initial_fees
from facilitator.journal.store import Store, StoreError
from facilitator.telemetry.logs import event, get_logger
from facilitator.telemetry.metrics import Metrics

_log = get_logger(__name__)

# Seconds. Counting reads what is open, and a tally of the rest; asking costs one POST to a node.
COUNT_EVERY = 5.0
ASK_EVERY = 15.0
# Gas of a settlement, before one was seen: the dearest of the two plain ones takes 145-175 k.
TYPICAL_GAS = 175_000


class Survey:
    """Looks at one network; where it has no `signers` only at what the journal holds of it.

    `counts` is what that was, None before the first look; `settlement_cost` is the wei that one
    payment may cost at the fees of then, `max_fee_per_gas` the cap of those.
    """

    def __init__(
        self,
        *,
        network: str,
        chain_id: int,
        chain: Chain,
        store: Store,
        signers: SignerPool | None,
        metrics: Metrics,
        max_fee_per_gas: int,
    ) -> None:
        self.network = network
        self.counts: SettlementCounts | None = None
        self.settlement_cost: int | None = None
        self._chain_id = chain_id
        self._chain = chain
        self._store = store
        self._signers = signers
        self._metrics = metrics
        self._max_fee_per_gas = max_fee_per_gas

    async def run(self) -> None:
        """Look for ever."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._repeat, self._count, COUNT_EVERY)
            if self._signers is not None:
                tasks.start_soon(self._repeat, self._ask, ASK_EVERY)

    async def _repeat(self, look: Callable[[], Awaitable[None]], every: float) -> None:
        while True:
            try:
                await look()
            except Exception as bug:  # what is only for metrics must not end anything else
                event(_log, logging.ERROR, "survey_broken", exc_info=bug, network=self.network)
            await anyio.sleep(every)

    async def _count(self) -> None:
        with suppress(StoreError):  # counted where it was raised
            self.counts = await self._store.settlement_counts(self._chain_id)
            if self.network in self._metrics.networks:
                self._metrics.count_rows(self.network, self.counts)

    async def _ask(self) -> None:
        """In one round trip; the endpoints note the head for themselves."""
        chain, signers = self._chain, self._signers
        assert signers is not None
        accounts = signers.accounts
        with suppress(ChainUnavailable):  # the endpoints' own metrics tell
            _, market, balances = await asyncio.gather(
                chain.head(),
                chain.fee_market(),
                asyncio.gather(*(chain.balance(account.address) for account in accounts)),
            )
            for account, balance in zip(accounts, balances, strict=True):
                account.balance = balance
            fees = initial_fees(market, self._max_fee_per_gas)
            paid = fees.max_fee_per_gas if fees else self._max_fee_per_gas
            last = signers.last_prepared
            gas, data = (last.gas_limit, last.l1_fee) if last else (TYPICAL_GAS, 0)
            self.settlement_cost = budget.most_cost(gas, paid, data)
