"""Which endpoint is believed about what: the only module that counts endpoints.

A chain is read from one endpoint, the first that is well. What decides about money is asked of
every voter (`Inspector.voters`): each endpoint that is well, or that failed only a moment ago. A
quorum of them must give the same answer: two, or one where there is a single voter. So one endpoint
that lies, alone, brings about no outcome, whichever of them the lie was read from. What the caller
has read is no vote of its own: it came from one of them.

"All" below means all voters. An endpoint that failed only a moment ago is one of them, so its
silence leaves the question open unless two others agree. "Left alone" means that several endpoints
are configured and only one is a voter: the others have failed repeatedly, lag, serve another chain,
or asked for a long pause. Where a single endpoint is configured it is believed about everything.
Depths are in blocks below the head, fields of `Policy`; only `confirmations` can be configured.

    question                asked  what must agree               left alone      final at depth
    ----------------------  -----  ----------------------------  --------------  -------------------
    a block at a height     all    2 have this hash; it is gone  believed        confirmations
    `block`                        once 2 have another
    a receipt exists        all    2 show the same block,        believed        confirmations;
    `receipt`                      success and logs                              a failure:
    `confirm_receipt`                                                            superseded_depth
    a receipt is missing    all    2 answer that there is none,  believed        superseded_depth
    `receipt`                      and no 2 show the same one
    account nonce used by   all    2 count a higher nonce        after another   superseded_depth
    a stranger                                                   superseded_
    `final_account_nonces`                                       depth blocks
    account nonce is next   all    2 count exactly this many     believed        seen at 2 heads
    `account_nonce_is`                                                           (`NonceGaps`)
    account nonce unused    all    2 count no more than this     never           latest block
    `account_nonce_unused`
    first account nonce to  all    2 count as many or more; of   at most 64      latest block
    hand out                       the pools, all that answer,   above the
    `account_nonce`,               which must be 2 or more       journal's
    `pooled_nonces`
    height of the head      all    2 have a block that high      believed, and   discarded when not
    `height`                                                     asked again     seen for 10 s and
                                                                                 5 blocks
    a payment was executed  all    2 answer the same             believed        the head
    `read`
    age of a block          all    2 have an older one           believed        -
    `block_older`
    logs                    all    2 answer; a log that any      believed        as its receipt
    `logs`                         shows counts once its
                                   receipt is agreed on
    fees far from those     all    the second highest counts;    used, but not   -
    agreed on `fee_market`         of 2 base fees the higher,    kept as agreed
                                   which only bounds the price   on
    facts of a payment,     first  -                             believed        the contract checks
    simulation, balances                                                         them again
    send of signed bytes    all    one that has them is enough   believed        -

A payment is proved by its own log in a receipt. The receipt and its block are asked for once more
when the outcome is decided (`confirm_receipt`, `HeadTracker.confirms`). `rpc.inspection` decides
which endpoints are well, lag or serve another chain.
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
# Error codes of a node that does not serve a method at all (JSON-RPC 2.0, EIP-1474).
NOT_SERVED = (-32601, -32004)
T = TypeVar("T")


class Agreement(StrEnum):
    """Whether the endpoints confirm what one of them has shown. Only AGREED may be acted on as
    true, only CONTRADICTED as false.
    """

    AGREED = "agreed"  # a quorum confirms it, or no second endpoint is configured
    CONTRADICTED = "contradicted"  # a quorum answers otherwise
    UNKNOWN = "unknown"  # they differ, or too few answer


class Answer(Struct, Generic[T], frozen=True):
    """A value, and whether a quorum confirms it: where it does not, `value` is what one endpoint
    answers, or None. `alone`: one of several configured endpoints was left alone with this answer.
    """

    agreement: Agreement
    value: T
    alone: bool = False

    @property
    def agreed(self) -> bool:
        """Return whether a quorum confirms the value."""
        return self.agreement is Agreement.AGREED


class Quorum:
    """Asks the voters of one chain. One that gives no usable answer agrees with none."""

    def __init__(self, rpc: RPC) -> None:
        self._rpc = rpc
        self._market: FeeMarket | None = None  # the last one that a quorum confirmed
        # By address: the block at which one endpoint, left alone in every turn since, first counted
        # its transactions.
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
        """Return whether the block at this height is older than `timestamp`, unix seconds. Never
        raises.
        """

        def older(answer: JSON) -> bool:
            return parse_block(answer).timestamp < timestamp

        return await self._confirm(older, "eth_getBlockByNumber", hex(number), False)

    async def read(self, read: Read, block: int, same: Callable[[bytes], bool]) -> Agreement:
        """Return whether `same` accepts the answer of a read as of a block. Never raises."""
        method, params = question(read, hex(block))
        return await self._confirm(lambda answer: same(parse_data(answer)), method, *params)

    async def receipt(self, transaction_hash: bytes) -> Answer[Receipt | None]:
        """Return a transaction's receipt, None where there is none. Where neither is agreed on,
        `value` is the receipt that one endpoint shows, None if none shows one. Never raises.
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
        """Return the receipt of a transaction that any endpoint shows, agreed on or not, so that no
        endpoint alone can hide it. None where a quorum answers that there is none. Raises
        ChainUnavailable where too few answer.
        """
        answer = await self.receipt(transaction_hash)
        if answer.value is None and not answer.agreed:
            raise ChainUnavailable("eth_getTransactionReceipt: too few endpoints answer")
        return answer.value

    async def confirm_receipt(self, read: Receipt) -> Answer[Receipt | None]:
        """Return whether the receipt that one endpoint has shown (`read`) is agreed on. Where
        another one is (CONTRADICTED), `value` is that one. Never raises.
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
        """Return the receipts that are agreed on, by transaction hash: they replace those that one
        endpoint showed. Empty where a single endpoint is configured. Never raises.
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
        # Counts only grow: an endpoint that counts more confirms every lower count as well.
        confirmed = sorted((count or 0 for count in counts), reverse=True)[quorum - 1]
        return Answer(Agreement.AGREED, confirmed, alone=quorum < QUORUM and self.several)

    async def raised_account_nonce(self, address: bytes, read: int) -> int | None:
        """Return how many transactions of `address` the quorum counts as mined, where one endpoint
        counts `read`, more than was known. None where that endpoint is left alone. Raises
        ChainUnavailable where none counts them.
        """
        if not self.several:
            return read
        answer = await self.account_nonce(address)
        return None if answer.alone else answer.value

    async def final_account_nonces(
        self, addresses: Iterable[bytes], block: int, patience: int
    ) -> dict[bytes, int]:
        """Return how many transactions of each address are mined as of `block`; addresses whose
        count is not certain are left out. Our transactions below that count are superseded. If the
        count were a lie, their payments would be sent again at other nonces, and their own nonces
        would become gaps. So an endpoint that is left alone is believed only once it has been left
        alone for `patience` blocks: a passing lie lasts no longer. Raises ChainUnavailable where no
        endpoint counts them.
        """
        asked = tuple(addresses) if block >= 0 else ()
        answers = await asyncio.gather(*(self.account_nonce(each, block) for each in asked))
        counted = dict(zip(asked, answers, strict=True))
        self._alone_since = {
            # `block` falls when the tracker discards a head that did not exist
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
        blocks. Two of several endpoints must agree; one left alone is not believed. Never raises.
        """

        def unused(answer: JSON) -> bool:
            return counter(answer) <= account_nonce

        asked = "eth_getTransactionCount", to_hex(address), "latest"
        return await self._confirm(unused, *asked, believes_one=False)

    async def pooled_nonces(self, address: bytes) -> tuple[int, ...]:
        """Return how many transactions of `address` are mined or wait in a pool, one count for each
        endpoint that is well and answers. Raises ChainUnavailable where several were asked and
        fewer than two gave a count, since one alone may lie, or the only one asked gave none.
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
        """Return the highest block number that a quorum has reached: an endpoint with a higher head
        has reached every lower number too. Raises ChainUnavailable where too few answer.
        """
        answers = await self._hear(counter, "eth_blockNumber")
        numbers = sorted((each for each in answers if each is not None), reverse=True)
        quorum = min(QUORUM, len(answers))
        if len(numbers) < max(quorum, 1):
            raise ChainUnavailable("eth_blockNumber: too few endpoints answer")
        height = numbers[quorum - 1]
        return Answer(Agreement.AGREED, height, alone=quorum < QUORUM and self.several)

    async def fee_market(self, read: FeeMarket) -> FeeMarket:
        """Return the fee market that is agreed on, given what one endpoint has shown (`read`): that
        one itself while it is near to the last that was agreed on, otherwise all are asked. Raises
        ChainUnavailable where none answers.
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
        """Return every event of a contract in blocks first..last that any endpoint shows, so that
        no endpoint alone can hide one. Raises ChainUnavailable where fewer than a quorum answer;
        endpoints that do not serve logs at all are not counted.
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
        """Return whether a quorum gives answers that `same` accepts. `same` raises ChainUnavailable
        for a malformed answer, which then counts for neither side. With a single endpoint
        configured nobody is asked: AGREED. Never raises.
        """
        if not self.several:
            return Agreement.AGREED
        votes = await self._hear(same, method, *params)
        quorum = min(QUORUM, len(votes)) if believes_one else QUORUM
        if votes.count(True) >= quorum > 0:
            return Agreement.AGREED
        return Agreement.CONTRADICTED if votes.count(False) >= quorum > 0 else Agreement.UNKNOWN

    async def _hear(
        self, parse: Callable[[JSON], T], method: str, *params: object, may_refuse: bool = False
    ) -> list[T | None]:
        """Return the parsed answer of each voter, None where it gives no usable one. `may_refuse`
        leaves out those that do not serve the method. Never raises.
        """
        parsed: list[T | None] = []
        for answer in await self._rpc.call_each(method, *params):
            if may_refuse and isinstance(answer, RPCError) and answer.code in NOT_SERVED:
                continue
            value = None
            if not (answer is None or isinstance(answer, BaseException)):
                with suppress(ChainUnavailable):  # garbage
                    value = parse(answer)
            parsed.append(value)
        return parsed


def _decisive(receipt: Receipt) -> object:
    """Return what two receipts must have in common to agree; gas and fees may be counted
    differently by endpoints.
    """
    block = receipt.block_number, receipt.block_hash
    return receipt.transaction_hash, block, receipt.succeeded, receipt.logs


def _votes(receipt: Receipt, receipts: Sequence[Receipt]) -> int:
    return sum(_decisive(receipt) == _decisive(each) for each in receipts)


def _parse_logs(answer: JSON) -> tuple[Log, ...]:
    return tuple(parse_log(entry) for entry in items(answer))
