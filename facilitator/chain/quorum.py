"""Which endpoint is believed about what: the only module that counts endpoints.

A chain is read from one endpoint, the first that is well. What decides about money is asked of
every endpoint that is well or was until a moment ago, each by itself, and as many as the quorum
(two, or one where only one answers for its chain) must say the same. So one endpoint that lies,
alone, brings about no outcome, whichever of them the lie was read from. What the caller has read is
no vote of its own: it came from one of them.

"All" below means all of those; "left alone" means that several endpoints are configured and the
others are away, behind, on another chain, or asked for a long pause. Where a single endpoint is
configured there is nobody else to ask, and its word is believed about everything. The depths are
settings (`Policy`), measured from the head.

    question                asked  what must agree               left alone      final at depth
    ----------------------  -----  ----------------------------  --------------  -------------------
    a block at a height     all    2 have this hash; it is gone  believed        confirmations
    `block`                        once 2 have another
    a receipt exists        all    2 show the same block,        believed        confirmations;
    `receipt`                      success and logs                              a failure:
    `confirm_receipt`                                                            superseded_depth
    a receipt is missing    all    2 say so, and no 2 show one;  believed        superseded_depth
    `receipt`                      one that shows it leaves it
                                   open
    account nonce used by   all    2 count beyond it; a count    after another   superseded_depth
    a stranger                     bears out every lower one     superseded_
    `final_account_nonces`                                       depth blocks
    account nonce is next   all    2 count exactly so            believed        once it was so at
    `account_nonce_is`                                                           an earlier head
    account nonce unused    all    2 count no more               never           latest block
    `account_nonce_unused`
    first account nonce to  all    2 bear it out; of pools: all  up to 64 above  latest block
    hand out                       that answer, at least 2       the journal
    `account_nonce`,
    `pooled_nonces`
    height of the head      all    2 have come as far            believed, and   discarded when not
    `height`                                                     asked again     seen for 10 s and
                                                                                 5 blocks
    a payment was executed  all    2 answer the same             believed        the head
    `read`
    age of a block          all    2 have an older one           believed        -
    `block_older`
    logs                    all    2 answer; what any shows      believed        as its receipt
    `logs`                         counts, borne out by receipt
    fees far from those     all    the second highest counts;    believed once,  -
    agreed on `fee_market`         of 2 base fees the higher,    not remembered
                                   which only bounds the price
    facts of a payment,     first  -                             believed        the contract checks
    simulation, balances                                                         them again
    send of signed bytes    all    one that has them is enough   believed        -

A payment's own log in a receipt is what proves it; its block and the receipt are looked at a second
time, at the moment of deciding (`HeadTracker.confirms`, `confirm_receipt`). Which endpoints are
well, lag or serve another chain is decided in `rpc.inspection`.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from enum import StrEnum
from typing import Generic, TypeVar

from msgspec import Struct

from facilitator.chain.answers import (
    ChainUnavailable,
    counter,
    items,
    parse_block,
    parse_data,
    parse_log,
    parse_market,
    parse_receipt,
    question,
    to_hex,
)
from facilitator.chain.rpc import RPC, RPCError
from facilitator.domain.strict_json import JSON
from facilitator.ethereum.abi import Read
from facilitator.ethereum.fees import FeeMarket, agreed_market, are_near
from facilitator.ethereum.receipts import Log, LogFilter, Receipt

QUORUM = 2
# eth_feeHistory: of the last ten blocks, the median tip of each.
FEE_HISTORY = ("eth_feeHistory", "0xa", "latest", [50])
# EIP-1474 and JSON-RPC 2.0: what a node answers to a method that it does not serve at all.
NOT_SERVED = (-32601, -32004)
T = TypeVar("T")


class Agreement(StrEnum):
    """What the endpoints say of something that one of them has shown. Only AGREED may be acted on
    as true, only CONTRADICTED as false.
    """

    AGREED = "agreed"  # a quorum bears it out, or no second endpoint is configured
    CONTRADICTED = "contradicted"  # a quorum says otherwise
    UNKNOWN = "unknown"  # they differ, or too few answer


class Answer(Struct, Generic[T], frozen=True):
    """A value, and whether a quorum bears it out: where it does not, `value` is what one endpoint
    says, or None. `alone`: one of several configured endpoints says it while the others are away.
    """

    agreement: Agreement
    value: T
    alone: bool = False

    @property
    def agreed(self) -> bool:
        """Whether a quorum bears the value out."""
        return self.agreement is Agreement.AGREED


class Quorum:
    """Asks all endpoints of one chain. An endpoint that gives no usable answer agrees with none."""

    def __init__(self, rpc: RPC) -> None:
        self._rpc = rpc
        self._market: FeeMarket | None = None  # the last one that a quorum bore out
        # By address: the block as of which one endpoint, left alone, first counted its
        # transactions, in all turns since.
        self._alone_since: dict[bytes, int] = {}

    @property
    def several(self) -> bool:
        """Whether more than one endpoint is configured; for this room alone."""
        return len(self._rpc.endpoints) > 1

    async def block(self, number: int, block_hash: bytes) -> Agreement:
        """Return whether the block at this height has this hash. Never raises."""

        def same(answer: JSON) -> bool:
            block = parse_block(answer)
            if block.number != number:
                raise ChainUnavailable("a block of another height")
            return block.hash == block_hash

        return await self._confirm(same, "eth_getBlockByNumber", hex(number), False)

    async def block_older(self, number: int, timestamp: int) -> Agreement:
        """Return whether the block at this height was made before `timestamp`, unix seconds. Never
        raises.
        """

        def older(answer: JSON) -> bool:
            return parse_block(answer).timestamp < timestamp

        return await self._confirm(older, "eth_getBlockByNumber", hex(number), False)

    async def read(self, read: Read, block: int, same: Callable[[bytes], bool]) -> Agreement:
        """Return whether `same` holds of what a read answers as of a block. Never raises."""
        method, params = question(read, hex(block))
        return await self._confirm(lambda answer: same(parse_data(answer)), method, *params)

    async def receipt(self, transaction_hash: bytes) -> Answer[Receipt | None]:
        """Return a transaction's receipt, None where there is none. Where that is not agreed on,
        the value is the receipt that one endpoint shows, or None if too few answer. Never raises.
        """
        answers = await self._rpc.call_each("eth_getTransactionReceipt", to_hex(transaction_hash))
        shown: list[Receipt] = []
        for answer in answers:
            if not (answer is None or isinstance(answer, BaseException)):
                with suppress(ChainUnavailable):  # garbage
                    shown.append(parse_receipt(answer))
        shown = [receipt for receipt in shown if receipt.transaction_hash == transaction_hash]
        best = max(shown, key=lambda each: _votes(each, shown), default=None)
        quorum = max(min(QUORUM, len(answers)), 1)
        if best is not None and _votes(best, shown) >= quorum:
            return Answer(Agreement.AGREED, best)
        if answers.count(None) >= quorum:
            return Answer(Agreement.AGREED, None)
        return Answer(Agreement.UNKNOWN, best)

    async def shown_receipt(self, transaction_hash: bytes) -> Receipt | None:
        """Return a transaction's receipt that any endpoint shows, agreed on or not: what one alone
        must not hide. None where a quorum says that there is none. Raises ChainUnavailable where
        too few answer.
        """
        answer = await self.receipt(transaction_hash)
        if answer.value is None and not answer.agreed:
            raise ChainUnavailable("eth_getTransactionReceipt: too few endpoints answer")
        return answer.value

    async def confirm_receipt(self, read: Receipt) -> Answer[Receipt | None]:
        """Return whether a receipt that was read is agreed on; where another one is, that is the
        value. Never raises.
        """
        if not self.several:
            return Answer(Agreement.AGREED, read)
        answer = await self.receipt(read.transaction_hash)
        if not answer.agreed or answer.value is None:
            return Answer(Agreement.UNKNOWN, None)
        if _decisive(answer.value) != _decisive(read):
            return Answer(Agreement.CONTRADICTED, answer.value)
        return Answer(Agreement.AGREED, read)

    async def overruling_receipts(self, hashes: Iterable[bytes]) -> dict[bytes, Receipt]:
        """Return the receipts that are agreed on, by transaction hash, to take the place of those
        that one endpoint showed: none where no second one is configured. Never raises.
        """
        asked = tuple(hashes) if self.several else ()
        answers = await asyncio.gather(*(self.receipt(each) for each in asked))
        both = zip(asked, answers, strict=True)
        return {each: one.value for each, one in both if one.agreed and one.value is not None}

    async def account_nonce(self, address: bytes, block: int | str = "latest") -> Answer[int]:
        """Return how many transactions of `address` are mined as of a block number or tag. Raises
        ChainUnavailable where no endpoint counts them.
        """
        tag = hex(block) if isinstance(block, int) else block
        counts = await self._hear(counter, "eth_getTransactionCount", to_hex(address), tag)
        if all(count is None for count in counts):
            raise ChainUnavailable("no endpoint counts an account's transactions")
        quorum = min(QUORUM, len(counts))
        # Counts only grow: an endpoint that counts more bears out what is less.
        borne_out = sorted((count or 0 for count in counts), reverse=True)[quorum - 1]
        return Answer(Agreement.AGREED, borne_out, alone=quorum < QUORUM and self.several)

    async def raised_account_nonce(self, address: bytes, read: int) -> int | None:
        """Return how many transactions of `address` are mined, where one endpoint counts `read`,
        more than was known; None where it is left alone with that. Raises ChainUnavailable.
        """
        if not self.several:
            return read
        answer = await self.account_nonce(address)
        return None if answer.alone else answer.value

    async def final_account_nonces(
        self, addresses: Iterable[bytes], block: int, patience: int
    ) -> dict[bytes, int]:
        """Return how many transactions of each address are mined as of `block`, for those of which
        that is certain. A transaction of ours whose account nonce is below counts as superseded: by
        a lie its payment would be made again at another nonce, and this one would be a gap. So an
        endpoint that is left alone is believed only once it has been for `patience` blocks: a
        passing lie lasts no longer. Raises ChainUnavailable where no endpoint counts them.
        """
        asked = tuple(addresses) if block >= 0 else ()
        answers = await asyncio.gather(*(self.account_nonce(each, block) for each in asked))
        counted = dict(zip(asked, answers, strict=True))
        self._alone_since = {
            # `block` falls when the head was one that did not exist
            address: min(self._alone_since.get(address, block), block)
            for address, answer in counted.items()
            if answer.alone
        }
        since = block - patience
        return {
            address: answer.value
            for address, answer in counted.items()
            if self._alone_since.get(address, since) <= since
        }

    async def account_nonce_is(self, address: bytes, count: int) -> Agreement:
        """Return whether exactly `count` transactions of `address` are mined at the latest blocks.
        Never raises.
        """

        def same(answer: JSON) -> bool:
            return counter(answer) == count

        return await self._confirm(same, "eth_getTransactionCount", to_hex(address), "latest")

    async def account_nonce_unused(self, address: bytes, account_nonce: int) -> Agreement:
        """Return whether no transaction of `address` with this account nonce is mined at the latest
        blocks: two of several must say so, one that is left alone is not believed. Never raises.
        """

        def unused(answer: JSON) -> bool:
            return counter(answer) <= account_nonce

        asked = "eth_getTransactionCount", to_hex(address), "latest"
        return await self._confirm(unused, *asked, believes_one=False)

    async def pooled_nonces(self, address: bytes) -> tuple[int, ...]:
        """Return how many transactions of `address` are mined or wait in a pool, as each endpoint
        that is well counts them. Raises ChainUnavailable where one gives no count and not two
        others do: one alone may lie.
        """
        method = "eth_getTransactionCount"
        asked = await self._rpc.call_everywhere(method, to_hex(address), "pending")
        answers = await asyncio.gather(*asked, return_exceptions=True)
        counts = []
        for answer in answers:
            if not isinstance(answer, BaseException):
                with suppress(ChainUnavailable):  # garbage
                    counts.append(counter(answer))
        if len(counts) < min(QUORUM, len(answers)):
            raise ChainUnavailable(f"{method}: an endpoint does not answer")
        return tuple(counts)

    async def height(self) -> Answer[int]:
        """Return the number of the latest block: an endpoint that sees further bears out what is
        less. Raises ChainUnavailable where too few answer.
        """
        answers = await self._hear(counter, "eth_blockNumber")
        numbers = sorted((each for each in answers if each is not None), reverse=True)
        quorum = min(QUORUM, len(answers))
        if len(numbers) < max(quorum, 1):
            raise ChainUnavailable("eth_blockNumber: too few endpoints answer")
        height = numbers[quorum - 1]
        return Answer(Agreement.AGREED, height, alone=quorum < QUORUM and self.several)

    async def fee_market(self, read: FeeMarket) -> FeeMarket:
        """Return the fee market, where one endpoint has shown `read`. All are asked for fees that
        are far from what a quorum agreed on before. Raises ChainUnavailable where none answers.
        """
        if not self.several or (self._market and are_near(read, self._market)):
            return read
        answers = await self._hear(parse_market, *FEE_HISTORY)
        markets = [market for market in answers if market is not None]
        if not markets:
            raise ChainUnavailable("eth_feeHistory: no endpoint answers")
        market = agreed_market(markets)
        if len(markets) >= QUORUM:
            self._market = market
        return market

    async def logs(self, wanted: LogFilter, first: int, last: int) -> tuple[Log, ...]:
        """Return a contract's events in blocks first..last that any endpoint shows: one alone hides
        none. Raises ChainUnavailable where fewer than a quorum answer; those that do not serve logs
        at all do not count.
        """
        query = {
            "address": to_hex(wanted.address),
            "topics": [None if topic is None else to_hex(topic) for topic in wanted.topics],
            "fromBlock": hex(first),
            "toBlock": hex(last),
        }
        answers = await self._hear(_parse_logs, "eth_getLogs", query, may_refuse=True)
        shown = [logs for logs in answers if logs is not None]
        if len(shown) < max(min(QUORUM, len(answers)), 1):
            raise ChainUnavailable("eth_getLogs: too few endpoints answer")
        return tuple({(log.block_hash, log.index): log for logs in shown for log in logs}.values())

    async def _confirm(
        self,
        same: Callable[[JSON], bool],
        method: str,
        *params: object,
        believes_one: bool = True,
    ) -> Agreement:
        """Return whether `same` holds of a quorum's answers; it raises ChainUnavailable for what is
        no answer. With a single endpoint configured nobody is asked. Never raises.
        """
        if not self.several:
            return Agreement.AGREED
        words = await self._hear(same, method, *params)
        quorum = min(QUORUM, len(words)) if believes_one else QUORUM
        if words.count(True) >= quorum > 0:
            return Agreement.AGREED
        return Agreement.CONTRADICTED if words.count(False) >= quorum > 0 else Agreement.UNKNOWN

    async def _hear(
        self, parse: Callable[[JSON], T], method: str, *params: object, may_refuse: bool = False
    ) -> list[T | None]:
        """Return what each endpoint says, None where it gives no usable answer. `may_refuse` leaves
        out those that do not serve the method. Never raises.
        """
        words: list[T | None] = []
        for answer in await self._rpc.call_each(method, *params):
            if may_refuse and isinstance(answer, RPCError) and answer.code in NOT_SERVED:
                continue
            word = None
            if not (answer is None or isinstance(answer, BaseException)):
                with suppress(ChainUnavailable):  # garbage
                    word = parse(answer)
            words.append(word)
        return words


def _decisive(receipt: Receipt) -> object:
    """What must agree of a receipt: how endpoints count gas and fees may differ."""
    block = receipt.block_number, receipt.block_hash
    return receipt.transaction_hash, block, receipt.succeeded, receipt.logs


def _votes(receipt: Receipt, receipts: Sequence[Receipt]) -> int:
    return sum(_decisive(receipt) == _decisive(each) for each in receipts)


def _parse_logs(answer: JSON) -> tuple[Log, ...]:
    return tuple(parse_log(entry) for entry in items(answer))
