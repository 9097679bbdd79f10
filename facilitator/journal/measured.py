"""The journal with its operations timed, whichever engine keeps it."""

import time
from collections.abc import Awaitable, Callable
from inspect import iscoroutinefunction
from typing import Any, cast

from prometheus_client import Counter, Histogram

from facilitator.journal.store import LostLease, Store, StoreError
from facilitator.telemetry.metrics import Metrics

# Operations whose label is another word than their name: dashboards know them by it.
LABELS = {
    "become_waiter": "listen",
    "finalize": "bury",
    "mark_all_replied": "mark_all_told",
    "mark_success_replied": "mark_success_told",
    "replace_with_filler": "take_over",
    "settlement_counts": "census",
}


class MeasuredStore:
    """Stands before a `Store`: `MeasuredStore.before(store, metrics)`."""

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self._store = store
        for name in _operations(store):
            timers = metrics.store_timers(LABELS.get(name, name))
            setattr(self, name, _timed(getattr(store, name), *timers))

    @classmethod
    def before(cls, store: Store, metrics: Metrics) -> Store:
        """Return a timed store that is used like the one behind it."""
        return cast(Store, cls(store, metrics))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def _operations(store: Store) -> list[str]:
    """Return the names of the store's operations: a closed set, since they become labels."""
    declared = [name for name in vars(Store) if not name.startswith("_")]
    return [name for name in declared if iscoroutinefunction(getattr(store, name, None))]


def _timed(
    operation: Callable[..., Awaitable[Any]], seconds: Histogram, errors: Counter
) -> Callable[..., Awaitable[Any]]:
    async def timed(*arguments: Any, **named: Any) -> Any:
        started = time.perf_counter()
        try:
            return await operation(*arguments, **named)
        except LostLease:
            raise  # the journal did as it should
        except StoreError:
            errors.inc()
            raise
        finally:
            seconds.observe(time.perf_counter() - started)

    return timed
