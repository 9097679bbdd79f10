"""What a transaction may pay for gas (EIP-1559): integers in wei a gas, rounding spelled out."""

from collections.abc import Sequence

from msgspec import Struct

GWEI = 10**9
# Below this tip many block builders pass a transaction over, whatever the fee history says.
MIN_PRIORITY_FEE = GWEI // 1000
# Six full blocks in a row double the base fee (EIP-1559: at most + 12.5 % a block): twice the base
# fee lets a transaction survive them without a replacement.
BASE_FEE_HEADROOM = 2
# One node's fees are believed up to this many times what several nodes agreed on.
FAR_ABOVE = 2


class Fees(Struct, frozen=True):
    """The two fee fields of an EIP-1559 transaction, in wei a gas."""

    max_fee_per_gas: int
    max_priority_fee_per_gas: int


class FeeMarket(Struct, frozen=True):
    """What eth_feeHistory shows: the next block's base fee, and a tip that recent blocks took."""

    base_fee: int
    priority_fee: int


def fee_market(base_fees: Sequence[int], rewards: Sequence[Sequence[int]]) -> FeeMarket:
    """Return the market from eth_feeHistory's `baseFeePerGas` (the last element is the next
    block's) and `reward` (one percentile a block): the median tip, at least MIN_PRIORITY_FEE.
    """
    tips = sorted(row[0] for row in rewards if row)
    median = tips[len(tips) // 2] if tips else 0
    return FeeMarket(base_fee=base_fees[-1], priority_fee=max(median, MIN_PRIORITY_FEE))


def agreed_market(markets: Sequence[FeeMarket]) -> FeeMarket:
    """Combine the markets that one or more nodes report, so that no single node makes us pay more.

    A tip is paid in full whatever the base fee is, so take the second highest: two nodes confirm
    it. Take the second highest base fee as well where there are three nodes or more. Of two, take
    the higher one: it only limits what is paid, and below the true base fee nothing is mined.
    """
    base_fees = sorted((each.base_fee for each in markets), reverse=True)
    tips = sorted((each.priority_fee for each in markets), reverse=True)
    return FeeMarket(
        base_fee=base_fees[1 if len(markets) > 2 else 0],
        priority_fee=tips[min(1, len(markets) - 1)],
    )


def are_near(one: FeeMarket, other: FeeMarket) -> bool:
    """Return whether neither asks for more than FAR_ABOVE times the other: a market this near to
    the agreed one is accepted from one node alone.
    """
    return _is_bounded(one, other) and _is_bounded(other, one)


def _is_bounded(market: FeeMarket, by: FeeMarket) -> bool:
    return (
        market.base_fee <= FAR_ABOVE * max(by.base_fee, MIN_PRIORITY_FEE)
        and market.priority_fee <= FAR_ABOVE * by.priority_fee
    )


def initial_fees(market: FeeMarket, cap: int) -> Fees | None:
    """Return the fees of a first attempt; None where `cap` does not even cover the next block."""
    if market.base_fee + MIN_PRIORITY_FEE > cap:
        return None
    max_fee = min(BASE_FEE_HEADROOM * market.base_fee + market.priority_fee, cap)
    return Fees(max_fee, min(market.priority_fee, max_fee))


def bumped_fees(last: Fees, market: FeeMarket, cap: int) -> Fees | None:
    """Return the fees of a replacement, or None where `cap` forbids one.

    Pools take a replacement only when both fees rise by a tenth (geth) or an eighth (others): both
    rise by 12.5 %, rounded up, and further where the market asks for more.
    """
    least_fee, least_tip = _raised(last.max_fee_per_gas), _raised(last.max_priority_fee_per_gas)
    if least_fee > cap:
        return None
    tip = max(least_tip, market.priority_fee)
    fee = min(max(least_fee, BASE_FEE_HEADROOM * market.base_fee + tip), cap)
    return Fees(fee, max(least_tip, min(tip, fee)))


def outbidding_fees(last: Fees, first: Fees, cap: int) -> Fees:
    """Return the fees of a transaction that takes the place of another one, which offers `last`: at
    least `first` (what `initial_fees` returns now), and both raised as in `bumped_fees`.

    They never exceed `cap`, even where a pool that has the other transaction asks for more: a pool
    that lacks it accepts ours, and nothing else would ever use the account nonce there.
    """
    tip = max(_raised(last.max_priority_fee_per_gas), first.max_priority_fee_per_gas)
    with_tip = first.max_fee_per_gas - first.max_priority_fee_per_gas + tip
    fee = min(max(_raised(last.max_fee_per_gas), with_tip), cap)
    return Fees(fee, min(tip, fee))


def _raised(fee: int) -> int:
    return -(-fee * 1125 // 1000)
