"""The bounded queue before the signers of one chain: who comes when all are full waits his turn."""

from collections import deque
from collections.abc import Callable

import anyio

from facilitator.accounts import Account

QUEUE_LIMIT = 1024


class QueueFull(Exception):
    """As many payments wait for a signer as may."""


class _Waiter:
    __slots__ = ("account", "granted")

    def __init__(self) -> None:
        self.granted = anyio.Event()
        self.account: Account | None = None


class Queue:
    """First come, first served. `reserve` takes a place of a signer that has one, if any has."""

    def __init__(self, reserve: Callable[[], Account | None]) -> None:
        self._reserve = reserve
        self._waiters: deque[_Waiter] = deque()

    def __len__(self) -> int:
        return len(self._waiters)

    def admit(self) -> None:
        """A place may be free: it goes to who waits longest."""
        while self._waiters:
            account = self._reserve()
            if account is None:
                return
            waiter = self._waiters.popleft()
            waiter.account = account
            waiter.granted.set()

    async def wait(self) -> Account:
        """A reserved place, in turn. Raises QueueFull when too many wait already."""
        if len(self._waiters) >= QUEUE_LIMIT:
            raise QueueFull
        waiter = _Waiter()
        self._waiters.append(waiter)
        try:
            await waiter.granted.wait()
        except BaseException:  # cancelled: give back what may have been granted in the meantime
            if waiter.account is None:
                self._waiters.remove(waiter)
            else:
                waiter.account.reserved -= 1
                self.admit()
            raise
        assert waiter.account is not None
        return waiter.account
