"""A journal that several processes share: who watches a chain, and who hears of what changes."""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from facilitator.journal.store import Store


class Fence:
    """Whose turn it is to watch a chain, as this process knows it. `token` is the fencing token of
    its lease, None while another process has it.
    """

    __slots__ = ("chain_id", "token")

    def __init__(self, chain_id: int) -> None:
        self.chain_id = chain_id
        self.token: int | None = None


class Notices(Protocol):
    """What tells at once of settlements that `record` has changed, in whichever process. Some may
    be missed, so who waits for one looks in the journal as well, now and then.
    """

    @property
    def arrive(self) -> bool:
        """Whether they do at present, as far as is known."""

    def subscribe(self, tell: Callable[[str], None]) -> None:
        """`tell` is called with the id of each, while `run` runs."""

    async def run(self) -> None:
        """Listen for them, and again whenever that breaks off; return where nothing can be heard.
        Raises nothing of the database.
        """

    async def prove(self) -> str | None:
        """Instead of `run`, once: why none arrive here, without any password; None if they do."""


@runtime_checkable
class SharedStore(Store, Protocol):
    """A journal that several processes have open. One of them at a time watches a chain."""

    async def lead(self, chain_id: int, holder: str, lease_ms: int) -> int | None:
        """Take the lease of a chain's loop, or prolong it, for so many milliseconds from now by
        the database's clock. Its fencing token, which rises whenever the lease goes to another
        holder; None where another one has it.
        """

    async def step_down(self, chain_id: int, holder: str) -> None:
        """End the lease, if the holder has it: another one may take it at once."""

    async def refuse_shared(self) -> None:
        """Raise StoreLocked where another process uses the journal, as far as leases tell: one is
        held, or has ended within the seconds in which its holder may come back to it.
        """

    def fenced(self, fence: Fence) -> Store:
        """The same journal for the loop of a chain: nothing is written, and LostLease raised,
        unless the lease is still the one of the token that the fence had when it was asked.
        """

    async def ended(self, settlement_ids: Sequence[str]) -> frozenset[str]:
        """Those of them that are not PENDING nor REORGED."""

    @property
    def notices(self) -> Notices:
        """Of what any of the processes records."""
