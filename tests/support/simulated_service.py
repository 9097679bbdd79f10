"""The service's own loop, admission and signers on the model chain: nothing of them is rewritten.

Only the node and the journal are models, so that a thousand lives take a minute. A crash may come
before and after each write of the journal and before each send.
"""

import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import cast

import anyio
from msgspec.structs import replace

from facilitator.chain.answers import ChainUnavailable
from facilitator.domain.schemes import eip3009, scheme_of
from facilitator.domain.schemes.eip3009 import Eip3009Payment
from facilitator.domain.settlement import Policy, may_open_again
from facilitator.engine.requests import SettleRequest
from facilitator.engine.signers import SignerPool
from facilitator.engine.simulate import Simulator
from facilitator.engine.wiring import Parts, build_loop, build_submitter
from facilitator.ethereum.secp256k1 import Signer
from facilitator.ethereum.transactions import TransactionBuilder
from facilitator.journal.store import Store, StoreError
from tests.support.model_node import ModelNode
from tests.support.simulated_journal import Journal

CHAIN_ID = 1


class Crash(BaseException):
    """The process is gone, with all that it had in memory."""


class Cut(BaseException):
    """The turn is cut off, and another process has the lease; what was in memory is still there."""


class Clock:
    """The world's time, in unix milliseconds."""

    now = 0

    def __call__(self) -> int:
        return self.now


class Process:
    """One life of the service, from its start to its crash."""

    def __init__(
        self,
        rng: random.Random,
        node: ModelNode,
        journal: Journal,
        signers: tuple[Signer, ...],
        asset: bytes,
        policy: Policy,
        clock: Clock,
        *,
        crash: float,
        interrupt: Callable[[], None],
        events: Counter[str],
    ) -> None:
        """`interrupt` is called wherever a crash may come in a turn; it may raise Cut or StoreError
        there.
        """

        def step() -> None:
            if self._in_turn:
                interrupt()
            if crash and rng.random() < crash:
                events["crash"] += 1
                raise Crash

        self._journal = journal
        self._in_turn = False
        journal.step = node.step = step
        store = cast(Store, journal)
        simulator = Simulator(chain=node, sender=signers[0].address)
        pool = SignerPool(
            signers,
            retiring=frozenset(),
            builder=TransactionBuilder(
                CHAIN_ID, eip3009.allowed_calls((asset,), deployments=False)
            ),
            chain=node,
            store=store,
            chain_id=CHAIN_ID,
            policy=policy,
            clock=clock,
        )
        parts = Parts(
            network="model",
            chain_id=CHAIN_ID,
            chain=node,
            simulator=simulator,
            signers=pool,
            policy=replace(policy, batch_max=1),
            clock=clock,
        )
        self._loop = build_loop(parts, store)
        self._submitter = build_submitter(parts, store)

    async def submit(self, payment: Eip3009Payment) -> None:
        """A request to settle; whether it is claimed is for the service to say."""
        scheme = scheme_of(payment)
        digest = scheme.request_digest(payment)
        known = await self._journal.find(scheme.payment_keys(payment)[0])
        if known is None or may_open_again(known, digest):
            request = SettleRequest(payment=payment, dialect="x402")
            with suppress(ChainUnavailable):  # a 503, and nothing was claimed
                await self._submitter.submit(request, digest, "waiter", anyio.current_time() + 1)

    async def turn(self) -> None:
        """One turn of the loop, which an outage only delays."""
        self._in_turn = True
        try:
            with suppress(ChainUnavailable, StoreError):
                await self._loop.turn()
        except Cut:
            self._loop.take_over()
        finally:
            self._in_turn = False
