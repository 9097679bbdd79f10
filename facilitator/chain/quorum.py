"""What no single endpoint is believed about: the blocks, receipts and account nonces that decide,
and how high the chain is.

Every endpoint that is well is asked by itself, and two must say the same where two are there: then
one that lies, alone, makes up no outcome, whichever of them the lie was read from. The caller's own
reading is no third voice: it came from one of them.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from msgspec import Struct

from facilitator.chain.answers import ChainUnavailable, counter, parse_block, parse_receipt, to_hex
from facilitator.chain.rpc import RPC, RPCError
from facilitator.domain.strict_json import JSON
from facilitator.ethereum.receipts import Receipt

QUORUM = 2
# EIP-1474 and JSON-RPC 2.0: what a node answers to a method that it does not serve at all.
NOT_SERVED = (-32601, -32004)
T = TypeVar("T")


class AgreedCount(Struct, frozen=True):
    """A count, or a height, that two endpoints bear out; `alone`: one of several told it while the
    others were away.
    """

    count: int
    alone: bool


class Witnesses:
    """The endpoints of one chain, each by itself.

    Where a single endpoint is configured there is none but the one that was read (None). Where all
    others of several are away, the one that is left is believed, but for `agree_unused`. One that
    does not answer, or not yet, agrees with nobody.
    """

    def __init__(self, rpc: RPC) -> None:
        self._rpc = rpc

    @property
    def exist(self) -> bool:
        """Whether more than one endpoint is configured."""
        return len(self._rpc.endpoints) > 1

    async def confirm_block(self, number: int, block_hash: bytes) -> bool | None:
        """Whether they have this block at this height. Never raises."""

        def same(answer: JSON) -> bool:
            block = parse_block(answer)
            return (block.number, block.hash) == (number, block_hash)

        return await self.confirm(same, "eth_getBlockByNumber", hex(number), False)

    async def deny_block(self, number: int, block_hash: bytes) -> bool | None:
        """Whether they have another block at this height. Never raises."""

        def another(answer: JSON) -> bool:
            block = parse_block(answer)
            return block.number == number and block.hash != block_hash

        return await self.confirm(another, "eth_getBlockByNumber", hex(number), False)

    async def confirm_older(self, number: int, timestamp: int) -> bool | None:
        """Whether the block at this height was made before then, unix seconds. Never raises."""

        def older(answer: JSON) -> bool:
            return parse_block(answer).timestamp < timestamp

        return await self.confirm(older, "eth_getBlockByNumber", hex(number), False)

    async def agree_receipt(self, transaction_hash: bytes) -> Receipt | None:
        """The receipt of which as many as must agree show the same: its block, its success and its
        logs; None where there is no such one. Never raises.
        """
        name = to_hex(transaction_hash)
        words = await self.hear(parse_receipt, "eth_getTransactionReceipt", name)
        told = [each for each in words if each and each.transaction_hash == transaction_hash]
        best = _most_agreed(told)
        if best is None or _votes(best, told) < min(QUORUM, len(words)):
            return None
        return best

    async def find_receipt(self, transaction_hash: bytes) -> Receipt | None:
        """The receipt that any of them shows: one alone hides none. The one that most agree on,
        should they differ; None where two say that there is none and no two show the same, or the
        one that is there says so. Raises ChainUnavailable where too few answer.
        """
        method = "eth_getTransactionReceipt"
        answers = await self._rpc.call_each(method, to_hex(transaction_hash))
        shown: list[Receipt] = []
        for answer in answers:
            if not (answer is None or isinstance(answer, BaseException)):
                with suppress(ChainUnavailable):  # garbage
                    shown.append(parse_receipt(answer))
        shown = [receipt for receipt in shown if receipt.transaction_hash == transaction_hash]
        best = _most_agreed(shown)
        quorum = max(min(QUORUM, len(answers)), 1)
        if answers.count(None) >= quorum and (best is None or _votes(best, shown) < quorum):
            return None
        if best is None:
            raise ChainUnavailable(f"{method}: too few endpoints answer")
        return best

    async def confirm_account_nonce(self, address: bytes, count: int) -> bool | None:
        """Whether they count so many mined transactions of `address`, no more and no fewer, at
        their latest blocks. Never raises.
        """

        def same(answer: JSON) -> bool:
            return counter(answer) == count

        return await self.confirm(same, "eth_getTransactionCount", to_hex(address), "latest")

    async def agree_unused(self, address: bytes, account_nonce: int) -> bool | None:
        """Whether two of them have mined no transaction of `address` with this account nonce, at
        their latest blocks: of several the one that is left is not believed. Never raises.
        """
        if not self.exist:
            return None
        counts = await self.hear(counter, "eth_getTransactionCount", to_hex(address), "latest")
        return sum(each is not None and each <= account_nonce for each in counts) >= QUORUM

    async def account_nonce(self, address: bytes, block: int | str = "latest") -> AgreedCount:
        """How many transactions of `address` are mined as of a block number or tag. Raises
        ChainUnavailable where nobody counts them.
        """
        tag = hex(block) if isinstance(block, int) else block
        asked = "eth_getTransactionCount", to_hex(address), tag
        counts = await self.hear(counter, *asked)
        if all(count is None for count in counts):
            raise ChainUnavailable("no endpoint counts an account's transactions")
        quorum = min(QUORUM, len(counts))
        # Counts only grow: who counts more bears out what is less.
        borne_out = sorted((count or 0 for count in counts), reverse=True)[quorum - 1]
        return AgreedCount(borne_out, alone=quorum < QUORUM and self.exist)

    async def height(self) -> AgreedCount:
        """How high the chain is: who sees further bears out what is less. Raises ChainUnavailable
        where too few tell.
        """
        told = await self.hear(counter, "eth_blockNumber")
        numbers = sorted((each for each in told if each is not None), reverse=True)
        quorum = min(QUORUM, len(told))
        if len(numbers) < max(quorum, 1):
            raise ChainUnavailable("eth_blockNumber: too few endpoints answer")
        return AgreedCount(numbers[quorum - 1], alone=quorum < QUORUM and self.exist)

    async def confirm(
        self, same: Callable[[JSON], bool], method: str, *params: object
    ) -> bool | None:
        """Whether they answer a question in the same way; `same` raises ChainUnavailable for what
        is no answer. Never raises.
        """
        if not self.exist:
            return None
        words = await self.hear(same, method, *params)
        return words.count(True) >= min(QUORUM, len(words)) > 0

    async def hear(
        self, parse: Callable[[JSON], T], method: str, *params: object, refusing: bool = False
    ) -> list[T | None]:
        """Each one's word, None where it gives none; where they may be `refusing` the method, those
        that do not serve it are left out. Never raises.
        """
        words: list[T | None] = []
        for answer in await self._rpc.call_each(method, *params):
            if refusing and isinstance(answer, RPCError) and answer.code in NOT_SERVED:
                continue
            word = None
            if not (answer is None or isinstance(answer, BaseException)):
                with suppress(ChainUnavailable):  # garbage
                    word = parse(answer)
            words.append(word)
        return words


def same_receipt(one: Receipt, other: Receipt) -> bool:
    """Whether they tell the same: the block, the success and the logs. How they count gas and fees
    may differ.
    """
    return _decisive(one) == _decisive(other)


def _decisive(receipt: Receipt) -> object:
    block = receipt.block_number, receipt.block_hash
    return receipt.transaction_hash, block, receipt.succeeded, receipt.logs


def _most_agreed(receipts: Sequence[Receipt]) -> Receipt | None:
    return max(receipts, key=lambda each: _votes(each, receipts), default=None)


def _votes(receipt: Receipt, receipts: Sequence[Receipt]) -> int:
    return sum(same_receipt(receipt, each) for each in receipts)
