"""A chain small enough to be simulated a thousand times: blocks, a mempool, reorgs, and nodes that
lose, lag and answer one question from one block and the next from another.

It shares no code with what it judges, except the structs of headers, receipts and logs. Times are
unix seconds.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from facilitator.ethereum.fees import GWEI, FeeMarket, Fees
from facilitator.ethereum.receipts import Block, Log, Receipt

BLOCK_SECONDS = 2
MAX_REORG = 4
MAX_LAG = 8
ROOM_IN_A_BLOCK = 6


@dataclass(frozen=True, slots=True)
class Terms:
    """When one payment can be executed: until `deadline`, outside of `blocked` (say, while the
    payer's allowance is gone); a success that moves nothing is what `mute` gives then.
    """

    deadline: int
    blocked: range
    mute: bool

    def payable(self, timestamp: int) -> bool:
        return timestamp <= self.deadline and timestamp not in self.blocked


@dataclass(frozen=True, slots=True)
class Sent:
    """A signed transaction; `payment` is what it executes, None where it executes none."""

    hash: bytes
    sender: bytes
    account_nonce: int
    fees: Fees
    payment: bytes | None


@dataclass(slots=True)
class ModelBlock:
    """A block with the state after it. `chain` is every block from genesis up to this one."""

    header: Block
    base_fee: int
    account_nonces: dict[bytes, int]
    # payment -> the log that says that it was made
    paid: dict[bytes, Log]
    receipts: dict[bytes, Receipt] = field(default_factory=dict)
    sent: list[Sent] = field(default_factory=list)
    chain: "list[ModelBlock]" = field(default_factory=list)

    def at(self, number: int) -> "ModelBlock | None":
        return self.chain[number] if 0 <= number < len(self.chain) else None


class Chain:
    """The truth. `heads` remembers every head there was, for nodes that lag."""

    def __init__(self, rng: random.Random, terms: dict[bytes, Terms], now: int) -> None:
        self._rng = rng
        self._terms = terms
        self._blocks = 0
        self._included: dict[bytes, list[ModelBlock]] = {}
        self.base_fee = GWEI
        self.mempool: dict[tuple[bytes, int], Sent] = {}
        genesis = ModelBlock(Block(0, self._new_hash(), bytes(32), now), GWEI, {}, {})
        genesis.chain.append(genesis)
        self.head = genesis
        self.heads = [genesis]

    def _new_hash(self) -> bytes:
        self._blocks += 1
        return b"block".ljust(24, b"\0") + self._blocks.to_bytes(8)

    def accept(self, sent: Sent) -> None:
        """What a node does with a transaction that reaches it; refusals are silent here, for the
        loop under test must not depend on hearing of them.
        """
        if sent.account_nonce < self.head.account_nonces.get(sent.sender, 0):
            return
        slot = (sent.sender, sent.account_nonce)
        known = self.mempool.get(slot)
        # geth's pool: both fees must rise by a tenth
        if known is None or (
            10 * sent.fees.max_fee_per_gas >= 11 * known.fees.max_fee_per_gas
            and 10 * sent.fees.max_priority_fee_per_gas >= 11 * known.fees.max_priority_fee_per_gas
        ):
            self.mempool[slot] = sent

    def mine(self, timestamp: int, laziness: float) -> None:
        """A block on top of the head, which leaves out each transaction with that probability."""
        self._extend(timestamp, laziness)
        self.heads.append(self.head)

    def _extend(self, timestamp: int, laziness: float) -> None:
        parent = self.head
        header = Block(parent.header.number + 1, self._new_hash(), parent.header.hash, timestamp)
        block = ModelBlock(header, self.base_fee, dict(parent.account_nonces), dict(parent.paid))
        block.chain = [*parent.chain, block]
        for slot in sorted(self.mempool):
            sent = self.mempool[slot]
            due = block.account_nonces.get(sent.sender, 0)
            if sent.account_nonce < due:
                del self.mempool[slot]
            elif (
                sent.account_nonce == due
                and sent.fees.max_fee_per_gas >= block.base_fee
                and len(block.sent) < ROOM_IN_A_BLOCK
                and self._rng.random() >= laziness
            ):
                del self.mempool[slot]
                self._execute(block, sent)
        self.head = block

    def _execute(self, block: ModelBlock, sent: Sent) -> None:
        block.account_nonces[sent.sender] = sent.account_nonce + 1
        block.sent.append(sent)
        number, block_hash = block.header.number, block.header.hash
        logs: tuple[Log, ...] = ()
        succeeded = True
        if sent.payment is not None:
            terms = self._terms[sent.payment]
            if sent.payment not in block.paid and terms.payable(block.header.timestamp):
                index = len(block.sent)
                log = Log(b"", (sent.payment,), b"", index, sent.hash, number, block_hash)
                block.paid[sent.payment] = log
                logs = (log,)
            else:
                succeeded = terms.mute
        block.receipts[sent.hash] = Receipt(sent.hash, number, block_hash, succeeded, logs, 1, 1)
        self._included.setdefault(sent.hash, []).append(block)

    def reorg(self, depth: int, lost: float, laziness: float) -> None:
        """Other blocks take the place of the last ones, and one more tops them; each orphaned
        transaction is forgotten with probability `lost`, else it returns to the mempool.
        """
        depth = min(depth, self.head.header.number)
        orphaned = self.head.chain[-depth:]
        self.head = orphaned[0].chain[-2]
        for block in orphaned:
            for sent in block.sent:
                if self._rng.random() >= lost:
                    self.mempool.setdefault((sent.sender, sent.account_nonce), sent)
        for block in orphaned:
            self._extend(block.header.timestamp, laziness)
        self.mine(self.head.header.timestamp + 1, laziness)

    def payable(self, payment: bytes, view: ModelBlock) -> bool:
        """Whether the payment would be made in the next block after `view`."""
        next_timestamp = view.header.timestamp + BLOCK_SECONDS
        return payment not in view.paid and self._terms[payment].payable(next_timestamp)

    def receipt(self, transaction_hash: bytes, view: ModelBlock) -> Receipt | None:
        """The receipt on the chain that ends in `view`."""
        for block in self._included.get(transaction_hash, ()):
            if view.at(block.header.number) is block:
                return block.receipts[transaction_hash]
        return None


class Unreachable(Exception):
    """No answer: the question or the reply was lost. Whether it was heard is unknown."""


@dataclass(slots=True)
class Weather:
    """How bad the network is: probabilities a question, all zero when it is calm."""

    lost_request: float = 0.0
    lost_reply: float = 0.0
    lag: float = 0.0
    outage: bool = False


class Node:
    """An endpoint before several machines: each question is answered by any of them, as of its own
    head, up to MAX_LAG blocks behind.
    """

    def __init__(self, rng: random.Random, chain: Chain, weather: Weather) -> None:
        self._rng = rng
        self._chain = chain
        self._weather = weather

    def _may_be_lost(self, probability: float) -> None:
        if self._weather.outage or self._rng.random() < probability:
            raise Unreachable

    def one_view(self) -> ModelBlock:
        """One machine's head, to which further questions can be pinned by its hash."""
        self._may_be_lost(self._weather.lost_request)
        lag = self._rng.randint(1, MAX_LAG) if self._rng.random() < self._weather.lag else 0
        heads = self._chain.heads
        return heads[max(0, len(heads) - 1 - lag)]

    def receipts_at(self, hashes: Iterable[bytes], view: ModelBlock) -> dict[bytes, Receipt]:
        found = ((each, self._chain.receipt(each, view)) for each in hashes)
        return {each: receipt for each, receipt in found if receipt is not None}

    def receipts(self, hashes: Sequence[bytes]) -> dict[bytes, Receipt]:
        return self.receipts_at(hashes, self.one_view())

    def account_nonce(self, sender: bytes) -> int:
        return self.one_view().account_nonces.get(sender, 0)

    def account_nonce_at(self, sender: bytes, number: int) -> int:
        """As of a block number of whichever chain that machine is on; 0 where it has none."""
        block = self.one_view().at(number)
        return 0 if block is None else block.account_nonces.get(sender, 0)

    def market(self) -> FeeMarket:
        return FeeMarket(self.one_view().base_fee, GWEI // 10)

    def simulate(self, payment: bytes, view: ModelBlock) -> bool:
        """Whether a call in a block on top of `view` would move the money."""
        return self._chain.payable(payment, view)

    def send(self, sent: Sent) -> None:
        self._may_be_lost(self._weather.lost_request)
        self._chain.accept(sent)
        self._may_be_lost(self._weather.lost_reply)
