"""Which account nonces may be handed out, and which were left out by mistake."""

from collections.abc import Collection

# geth's pool guarantees an account 16 slots and lends it up to 64.
MAX_IN_FLIGHT = 64


def missing(account_nonce: int, pending: Collection[int]) -> range:
    """Return the account nonces from the chain's next one up to the least pending one: a gap.
    Nothing behind it is mined until somebody uses them.
    """
    return range(account_nonce, max(min(pending, default=account_nonce), account_nonce))


def nonce_floor(
    next_nonce: int, mined: int, pooled: Collection[int], *, alone: bool = False
) -> int | None:
    """Return the least account nonce that may be handed out, or None where that is not certain.

    `next_nonce` is the journal's, `mined` the chain's count, `pooled` the count of each endpoint
    that includes its pool: a higher one means transactions that the journal does not know (it is
    new, or was restored, or another program uses the key). They count only where all endpoints
    agree, and are no more than a pool takes. With `alone`, one endpoint reported both counts: then
    `mined` may not be further ahead of the journal than that either, since a gap of this size can
    be closed again.
    """
    floor = max(next_nonce, mined)
    if alone and floor - next_nonce > MAX_IN_FLIGHT:
        return None
    above = {count for count in pooled if count > floor}
    if not above:
        return floor
    if len(set(pooled)) > 1:
        return None
    (count,) = above
    return count if count - floor <= MAX_IN_FLIGHT else None
