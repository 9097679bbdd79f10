"""What is asked, and when: drawn from the seed alone, so that a seed decides the same again. What
the machine makes of it in time is not repeatable.
"""

from collections.abc import Iterator
from random import Random

from msgspec import Struct

KINDS = ("jeju", "gasless", "v1", "v2")
PAYERS = (2, 4, 5, 6, 7)  # indexes of the chain's accounts
POOR = 7  # has money for a few of its payments
FUNDS_OF_THE_POOR = 4_000_000  # atomic units
SIGNERS = (1, 8)
SELLER = 3
LEAST = 1_000_000  # atomic units; every payment has an amount of its own
EVERY = 0.25  # seconds between payments, on average
LONG = 3_600  # seconds that a payment of the standard dialect stays good
SHORT = 12  # seconds: less than some faults last


class Ask(Struct, frozen=True):
    """A request: so many seconds after the payment was signed, under a key or not. Its client hangs
    up after `patience` seconds.
    """

    after: float
    key: str | None
    patience: float


class Order(Struct, frozen=True):
    """A payment to be made, and how its seller goes about it. `forged`: somebody else signs.
    `persistence` is the seconds after which the seller asks again without an outcome, None where he
    lets it be until the faults end.
    """

    number: int
    pause: float
    kind: str
    payer: int
    amount: int
    nonce: bytes
    token_nonce: bytes
    lifetime: int
    forged: bool
    asks: tuple[Ask, ...]
    persistence: float | None

    @property
    def resource(self) -> str:
        """Names the payment in the contract's log."""
        return f"/chaos/{self.number}"

    @property
    def path(self) -> str:
        return "/settle/gasless" if self.kind == "gasless" else "/settle"


PATIENT = 60.0  # seconds: longer than the service waits


def orders(seed: int, *, short_lived: bool) -> Iterator[Order]:
    """Payments without end. With `short_lived` some end before their transaction may be mined."""
    random = Random(f"{seed} orders")  # noqa: S311 - a seed, so that a failure can be repeated
    number = 0
    while True:
        number += 1
        kind = random.choice(KINDS)
        short = random.random() < 0.1
        yield Order(
            number=number,
            pause=random.uniform(0, 2 * EVERY),
            kind=kind,
            payer=random.choice(PAYERS),
            amount=LEAST + number,
            nonce=random.randbytes(32),
            token_nonce=random.randbytes(32),
            lifetime=SHORT if short and short_lived else LONG,
            forged=random.random() < 0.03,
            asks=_asks(random, number),
            persistence=random.uniform(0.5, 4) if random.random() < 0.6 else None,
        )


def _asks(random: Random, number: int) -> tuple[Ask, ...]:
    """One, or duplicates at once, or later, or both; some hang up, some have the seller's key."""
    key = f"order-{number}" if random.random() < 0.4 else None
    count = random.choice((1, 1, 1, 2, 2, 3, 5))
    return tuple(
        Ask(
            after=0.0 if place == 0 or random.random() < 0.4 else random.uniform(0.1, 12),
            key=key if random.random() < 0.8 else None,
            patience=random.uniform(0.05, 3) if random.random() < 0.25 else PATIENT,
        )
        for place in range(count)
    )


def lives(seed: int) -> Iterator[float | None]:
    """Seconds that the service lives once it listens; None where it is killed while it starts."""
    random = Random(f"{seed} lives")  # noqa: S311
    while True:
        yield None if random.random() < 0.15 else random.uniform(1.5, 14)
