"""The requests of this process that wait for a settlement.

At most one request may report success, and only while its client is there to receive it, so a
waiter is also woken when its client hangs up.
"""

import secrets

import anyio


class Waiter:
    """One waiting request. `id` names it in the journal; `gone` is set once its client hung up."""

    def __init__(self) -> None:
        self.id = secrets.token_hex(8)
        self.gone = False
        self._woken = anyio.Event()

    def wake(self) -> None:
        """Have `wait` return, now or the next time it is called: something may have changed."""
        self._woken.set()

    def hang_up(self) -> None:
        """Note that the client is gone, and wake."""
        self.gone = True
        self.wake()

    async def wait(self) -> None:
        """Return once `wake` has been called, since this returned last."""
        await self._woken.wait()
        self._woken = anyio.Event()


class Waiters:
    """Who waits for which settlement in this process."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[Waiter]] = {}

    def add(self, settlement_id: str, waiter: Waiter) -> None:
        """Wake `waiter` from now on whenever the settlement changes."""
        self._waiting.setdefault(settlement_id, set()).add(waiter)

    def remove(self, settlement_id: str, waiter: Waiter) -> None:
        """Undo `add`."""
        waiting = self._waiting[settlement_id]
        waiting.discard(waiter)
        if not waiting:
            del self._waiting[settlement_id]

    @property
    def waited_for(self) -> list[str]:
        """Return the ids of the settlements that some request waits for."""
        return list(self._waiting)

    def wake(self, settlement_id: str) -> None:
        """Wake all who wait for this settlement: it has changed."""
        for waiter in self._waiting.get(settlement_id, ()):
            waiter.wake()
