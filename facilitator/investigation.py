"""A fresh look at a payment whose own transactions did not pay it.

Its nonce may have been used by somebody else, who paid it just the same; or the reason why the
transaction failed may have passed, so that another one would settle it.
"""

import asyncio
from collections.abc import Callable

from facilitator.chain import Chain
from facilitator.ethereum.abi import address_word
from facilitator.heads import Heads
from facilitator.payments import Proof, Reason, Refusal
from facilitator.schemes import jeju
from facilitator.schemes.jeju import JejuPayment
from facilitator.settlement import Findings, Policy
from facilitator.verification import check_facts, check_time

# Blocks a log query: what the strictest common providers allow.
LOG_RANGE = 500
# How far back, in all: a day of one-second blocks and more.
MAX_LOG_QUERIES = 200


class Investigator:
    """Looks at one chain. `clock` is in unix milliseconds. Its methods raise ChainUnavailable."""

    def __init__(
        self, *, chain: Chain, heads: Heads, policy: Policy, clock: Callable[[], int]
    ) -> None:
        self._chain = chain
        self._heads = heads
        self._policy = policy
        self._clock = clock

    async def findings(self, payment: JejuPayment, sender: bytes, margin: int) -> Findings | None:
        """What the chain shows about a payment, and whether another transaction would settle it;
        None while that is still open. `margin` is the seconds that must be left to mine it.
        """
        head = await self._chain.head()
        seen = self._heads.head
        if seen is not None and head.number < seen.number:
            return None  # an endpoint that lags: what it does not show may exist all the same
        # The nonce is read as of the block up to which logs count, or it would look used before the
        # log that says by what.
        deep = max(head.number - self._policy.confirmations + 1, 0)
        answers, reverted = await asyncio.gather(
            self._chain.read(jeju.fact_calls(payment), deep),
            self._chain.simulate(jeju.settlement_call(payment), sender),
        )
        facts = jeju.read_facts(payment, answers)
        if facts.authorization_used:
            proof = await self._find_proof(payment, deep)
            return Findings(
                block_number=head.number, proof=proof, authorization_used=True, refusal=None
            )
        now = self._clock() // 1000
        refusal: Refusal | None = check_time(payment, now, margin) or check_facts(payment, facts)
        if refusal is None and reverted is not None:
            refusal = jeju.explain_revert(payment, reverted.data, now)
            if refusal.reason is Reason.AUTHORIZATION_USED_ON_CHAIN:
                return None  # used above `deep`
        return Findings(
            block_number=head.number, proof=None, authorization_used=False, refusal=refusal
        )

    async def _find_proof(self, payment: JejuPayment, last: int) -> Proof | None:
        """The log that proves the payment, in anybody's transaction up to block `last`, back to
        when it was signed.
        """
        topics = (
            jeju.PAYMENT_SETTLED,
            None,
            address_word(payment.payer),
            address_word(payment.pay_to),
        )
        for _ in range(MAX_LOG_QUERIES):
            first = max(last - LOG_RANGE + 1, 0)
            logs = await self._chain.logs(payment.contract, topics, first, last)
            for log in logs:
                timestamp = await self._heads.timestamp_of(log.block_hash)
                if timestamp is not None:
                    proof = jeju.find_proof(payment, (log,), timestamp)
                    if proof is not None:
                        return proof
            oldest = await self._chain.block(first)
            if first == 0 or oldest is None or oldest.timestamp < payment.valid_from:
                return None
            last = first - 1
        return None
