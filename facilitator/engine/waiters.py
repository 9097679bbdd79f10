"""The requests of this process that wait for a settlement.

At most one request may be told of success, and only while somebody is there to hear it, so a
listener also learns when its client hangs up.
"""

import secrets

import anyio


class Listener:
    """One request. `id` names it in the journal; `gone` is set once its client has hung up."""

    def __init__(self) -> None:
        self.id = secrets.token_hex(8)
        self.gone = False
        self._woken = anyio.Event()

    def wake(self) -> None:
        """Something may have changed: `wait` returns, now or the next time it is called."""
        self._woken.set()

    def hang_up(self) -> None:
        """The client is not there any more."""
        self.gone = True
        self.wake()

    async def wait(self) -> None:
        """Until `wake` was called, since the last time that this returned."""
        await self._woken.wait()
        self._woken = anyio.Event()


class Listeners:
    """Who waits for which settlement in this process."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[Listener]] = {}

    def add(self, settlement_id: str, listener: Listener) -> None:
        """From now on, `listener` is woken when the settlement changes."""
        self._waiting.setdefault(settlement_id, set()).add(listener)

    def remove(self, settlement_id: str, listener: Listener) -> None:
        """The end of `add`."""
        waiting = self._waiting[settlement_id]
        waiting.discard(listener)
        if not waiting:
            del self._waiting[settlement_id]

    @property
    def waited_for(self) -> list[str]:
        """The settlements that somebody waits for."""
        return list(self._waiting)

    def wake(self, settlement_id: str) -> None:
        """The settlement has changed."""
        for listener in self._waiting.get(settlement_id, ()):
            listener.wake()
