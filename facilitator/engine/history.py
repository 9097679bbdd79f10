"""Payments of which the journal knows nothing: it is new, was lost, or comes from a backup.

Their nonce is used on the chain, and the chain says in which transaction. A seller whose reply went
astray with the journal can find his money by it.
"""

from collections.abc import Callable

import anyio

from facilitator.chain.client import Chain
from facilitator.domain.schemes import AnyPayment, scheme_of
from facilitator.engine.payment_search import Investigator

# Log queries a payment (see `investigation.LOG_RANGE`), and payments that are looked for at once:
# everybody may ask for one.
QUERIES = 20
AT_ONCE = 2
REMEMBERED = 4096
# Milliseconds for which a search that found nothing counts: nodes index logs late.
NOTHING_FOR = 60_000


class History:
    """Looks for payments on one chain. `clock` is in unix milliseconds."""

    def __init__(
        self, *, chain: Chain, investigator: Investigator, clock: Callable[[], int]
    ) -> None:
        self._chain = chain
        self._investigator = investigator
        self._clock = clock
        self._limit = anyio.Semaphore(AT_ONCE)
        # By request digest: two payments may share a nonce, and one transaction paid one of them.
        self._found: dict[bytes, tuple[bytes | None, int]] = {}

    async def transaction_of(self, payment: AnyPayment) -> bytes | None:
        """The hash of the transaction that paid this very payment, whoever sent it; None where the
        last blocks show none. Raises ChainUnavailable.
        """
        key = scheme_of(payment).request_digest(payment)
        found, at = self._found.get(key, (None, 0))
        if found is not None or self._clock() - at < NOTHING_FOR:
            return found
        async with self._limit:
            head = await self._chain.head()
            proof = await self._investigator.find_proof(
                payment, head.number, payment.valid_from, QUERIES
            )
        found = None if proof is None else proof.transaction_hash
        self._found[key] = (found, self._clock())
        while len(self._found) > REMEMBERED:
            del self._found[next(iter(self._found))]
        return found
