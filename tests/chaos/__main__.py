"""Settle payments while everything goes wrong, and judge by the chain's logs: exit code 1 when a
promise was broken, with the payment's whole story.
"""

import argparse
import asyncio
import sys
import tempfile
from collections import Counter
from pathlib import Path
from random import SystemRandom

from tests.chaos.judge import LAWS, story
from tests.chaos.payments import REFUSED, SUCCESS
from tests.chaos.run import Run, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="how long faults last (60)")
    parser.add_argument("--seed", type=int, help="decides what is asked and what fails (any)")
    options = parser.parse_args()
    if options.seconds <= 0:
        parser.error("seconds is above 0")
    seed = SystemRandom().randrange(10**6) if options.seed is None else options.seed
    print(f"seed {seed}, {options.seconds:g} s", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        ended = asyncio.run(run(seed, options.seconds, Path(folder)))
    print(report(ended))
    return 1 if ended.violations else 0


def report(ended: Run) -> str:
    """The figures, and the story of every violation."""
    assert ended.evidence is not None
    tried = len(ended.payments)
    moved = ended.evidence.moved
    refused = [
        payment
        for payment in ended.payments
        if payment.order.number not in moved and payment.final and payment.told(REFUSED)
    ]
    pending = [payment for payment in ended.payments if not payment.final]
    in_storm = sum(
        any(heard.ended < ended.storm_over for heard in payment.told(SUCCESS))
        for payment in ended.payments
    )
    heard = Counter(heard.meaning for payment in ended.payments for heard in payment.heard)
    broken = Counter(violation.law for violation in ended.violations)
    lines = [story(violation, ended.evidence, ended.started) for violation in ended.violations] + [
        f"seed           {ended.seed}, {ended.seconds:g} s, {ended.confirmations} confirmations",
        f"tried          {tried}",
        f"settled        {len(moved)}, {in_storm} of them told before the faults ended",
        f"refused        {len(refused)}",
        f"pending        {len(pending)}",
        f"requests       {sum(heard.values())}: " + _list(heard),
        f"kills          {ended.kills}",
        f"faults         {sum(ended.faults.values())}: " + _list(ended.faults),
        f"logged         {sum(ended.events.values())}: " + _list(ended.events),
        f"violations     {len(ended.violations)}: "
        + ", ".join(f"{law} {broken[law]}" for law in LAWS),
    ]
    return "\n".join(lines)


def _list(counted: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counted.items()))


if __name__ == "__main__":
    sys.exit(main())
