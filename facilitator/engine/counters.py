"""Counters of what the loop of one chain has done, and whether it is stuck."""

import time
from collections import Counter

from facilitator.domain.settlement import SettlementState

# Seconds without a step after which the loop counts as stuck. Every step is a few calls to nodes or
# to the journal, each with a deadline of its own, so no outage of either keeps it this long.
STUCK_AFTER = 300.0


class Tally:
    """Counts for one chain since the start of the process. `gas_spent` is wei by signer's address,
    for transactions that were mined; one that is mined again after a reorg counts again.
    `superseded` counts transactions whose account nonce was used by something that we did not sign,
    `changes` settlements by the state that they reached. `stepped_at` is when the loop last did
    something, on time.monotonic(), None while it rests.
    """

    def __init__(self) -> None:
        self.replacements = 0
        self.superseded = 0
        self.gas_spent: Counter[bytes] = Counter()
        self.changes: Counter[SettlementState] = Counter()
        self.stepped_at: float | None = None

    def step(self) -> None:
        """Note that the loop works, and has come this far."""
        self.stepped_at = time.monotonic()

    def rest(self) -> None:
        """Note that the loop waits until there is something to do."""
        self.stepped_at = None

    def silence(self) -> float:
        """Return the seconds since the last step; 0 while the loop rests."""
        return 0.0 if self.stepped_at is None else time.monotonic() - self.stepped_at

    @property
    def is_stuck(self) -> bool:
        """Return whether the loop hangs, or has ended in the middle of a step."""
        return self.silence() > STUCK_AFTER
