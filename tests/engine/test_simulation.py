"""What the service's own loop comes to over whole lives of settlements, under every fault at once.

`SEEDS=5000 pytest tests/test_simulation.py` runs more worlds, `SEED=17 ...` one of them.
"""

import os
from functools import cache
from itertools import islice

from facilitator.domain.settlement import Policy
from tests.support.simulation import Verdicts, World

DEFAULT_SEEDS = range(300)
# Where the search for worlds that a reckless policy breaks begins; any other two would do as well.
WRONG_WHEN_RECKLESS = (45, 372)
FAULTS = (
    "claim after a failure",
    "confirmed",
    "another transaction",
    "crash",
    "failed",
    "fee spike",
    "foreign transaction",
    "gap filled",
    "lost",
    "mempool drop",
    "paid by a stranger",
    "reorg",
    "reorged",
    "replacement",
    "send without an answer",
    "superseded",
)


def _seeds() -> range:
    one, many = os.environ.get("SEED"), os.environ.get("SEEDS")
    if one is not None:
        return range(int(one), int(one) + 1)
    return DEFAULT_SEEDS if many is None else range(int(many))


@cache
def _run(seed: int) -> Verdicts:
    return World(seed).run()


def test_no_world_ends_with_a_false_or_missing_outcome() -> None:
    """CONFIRMED is on the chain, FAILED and LOST were not paid by us, nothing is stuck, no account
    nonce is signed for two transactions, no attempt passes the fee cap.
    """
    wrong = {seed: _run(seed).wrong for seed in _seeds()}
    told = [f"SEED={seed}: {'; '.join(said)}" for seed, said in wrong.items() if said]
    assert not told, f"{len(told)} of {len(wrong)} worlds went wrong\n" + "\n".join(told)


def test_a_turn_that_is_cut_off_anywhere_leaves_nothing_half_done() -> None:
    """Before and after each write and before each send: the lease is lost, or the journal fails,
    and the process goes on with what it has in memory.
    """
    verdicts = {seed: World(seed, interruptions=0.1).run() for seed in range(150)}
    assert {seed: each.wrong for seed, each in verdicts.items() if each.wrong} == {}
    for fault in ("Cut", "StoreError", "reorged", "confirmed"):
        assert sum(each.events[fault] for each in verdicts.values()) > 20, fault


def test_a_transaction_takes_few_attempts() -> None:
    """Only the next account nonce in line is replaced, so spikes do not multiply signatures."""
    assert max(_run(seed).most_attempts for seed in _seeds()) <= 6


def test_the_worlds_had_every_fault_and_every_end() -> None:
    """A simulation in which nothing happens proves nothing."""
    verdicts = [_run(seed) for seed in DEFAULT_SEEDS]
    seen = sum((each.events for each in verdicts), start=type(verdicts[0].events)())
    assert {fault: seen[fault] for fault in FAULTS if seen[fault] < 3} == {}
    assert sum(each.settlements for each in verdicts) > 1_500


def test_a_policy_that_trusts_shallow_nonces_is_caught() -> None:
    """With lagging nodes and reorgs, an account nonce one block deep proves nothing: the same
    worlds go wrong when it is believed.
    """
    reckless = Policy(superseded_depth=1)
    seeds = dict.fromkeys((*WRONG_WHEN_RECKLESS, *range(1_000)))
    wrong = (seed for seed in seeds if World(seed, reckless).run().wrong)
    assert len(list(islice(wrong, 2))) == 2
