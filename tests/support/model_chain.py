"""A chain small enough to be simulated a thousand times: blocks, a mempool, reorgs, and nodes that
lose, lag and answer one question from one block and the next from another.

It shares no code with what it judges, except the structs of headers, receipts and logs. Times are
unix seconds.
"""

import random
from dataclasses import dataclass, field

from facilitator.ethereum.fees import GWEI, Fees
from facilitator.ethereum.receipts import Block, Log, Receipt

BLOCK_SECONDS = 2
MAX_REORG = 4
MAX_LAG = 8
ROOM_IN_A_BLOCK = 6


@dataclass(frozen=True, slots=True)
class Terms:
    """When one payment can be executed: until `deadline`, outside of `blocked` (say, while the
    payer's money is elsewhere); a success that moves nothing is what `mute` gives then. `events`
    are the topics and data of what its token says when it pays, the last one the proof.
    """

    deadline: int
    blocked: range
    mute: bool
    asset: bytes
    events: tuple[tuple[tuple[bytes, ...], bytes], ...]

    def payable(self, timestamp: int) -> bool:
        return timestamp <= self.deadline and timestamp not in self.blocked


@dataclass(frozen=True, slots=True)
class Sent:
    """A signed transaction; `calldata` says which payment it executes, None where none."""

    hash: bytes
    sender: bytes
    account_nonce: int
    fees: Fees
    calldata: bytes | None


@dataclass(slots=True)
class ModelBlock:
    """A block with the state after it. `chain` is every block from genesis up to this one."""

    header: Block
    base_fee: int
    account_nonces: dict[bytes, int]
    # a payment's calldata -> the log that says that it was made
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
        self._by_hash: dict[bytes, ModelBlock] = {}
        genesis = ModelBlock(Block(0, self._new_hash(), bytes(32), now), GWEI, {}, {})
        genesis.chain.append(genesis)
        self._by_hash[genesis.header.hash] = genesis
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
        self._by_hash[header.hash] = block
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
        if sent.calldata is not None:
            terms = self._terms[sent.calldata]
            if sent.calldata not in block.paid and terms.payable(block.header.timestamp):
                first = 8 * len(block.sent)
                logs = tuple(
                    Log(terms.asset, topics, data, first + index, sent.hash, number, block_hash)
                    for index, (topics, data) in enumerate(terms.events)
                )
                block.paid[sent.calldata] = logs[-1]
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

    def payable(self, calldata: bytes, view: ModelBlock) -> bool:
        """Whether the payment would be made in the next block after `view`."""
        next_timestamp = view.header.timestamp + BLOCK_SECONDS
        return calldata not in view.paid and self._terms[calldata].payable(next_timestamp)

    def known(self, block_hash: bytes) -> ModelBlock | None:
        """Any block that ever was."""
        return self._by_hash.get(block_hash)

    def receipt(self, transaction_hash: bytes, view: ModelBlock) -> Receipt | None:
        """The receipt on the chain that ends in `view`."""
        for block in self._included.get(transaction_hash, ()):
            if view.at(block.header.number) is block:
                return block.receipts[transaction_hash]
        return None


@dataclass(slots=True)
class Weather:
    """How bad the network is: probabilities a question, all zero when it is calm."""

    lost_request: float = 0.0
    lost_reply: float = 0.0
    lag: float = 0.0
    outage: bool = False
