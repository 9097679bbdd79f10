"""An endpoint before several machines of the model chain, in the place of one of a real chain.

Each question is answered by any of them, as of its own head, which may be up to MAX_LAG blocks
behind, or on a fork that was left. What a machine does not know it says it has not got.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from eth_abi.abi import encode

from facilitator.chain.answers import ChainUnavailable, NodeFault
from facilitator.chain.client import Chain, Preparation, Reverted
from facilitator.chain.quorum import Agreement, Answer, Quorum
from facilitator.domain.schemes import eip3009
from facilitator.domain.schemes.eip3009 import Eip3009Payment
from facilitator.ethereum.abi import Call, CodeOf, Read
from facilitator.ethereum.fees import GWEI, FeeMarket
from facilitator.ethereum.receipts import Block, Log, LogFilter, Receipt
from tests.support.model_chain import MAX_LAG, ModelBlock, Sent, Weather
from tests.support.model_chain import Chain as Model

PLENTY = 10**18


class ModelNode(Chain):
    """`payments` are by their calldata, `signed` gives what raw bytes are."""

    def __init__(
        self,
        rng: random.Random,
        model: Model,
        weather: Weather,
        payments: Mapping[bytes, Eip3009Payment],
        signed: Callable[[bytes], Sent],
        events: Counter[str],
    ) -> None:
        self._rng = rng
        self._model = model
        self._weather = weather
        self._payments = payments
        self._signed = signed
        self._events = events
        # An answer of the chain is found by the very call that asks for it.
        self._used = {
            (call.target, call.calldata): calldata
            for calldata, payment in payments.items()
            for call in (eip3009.used_call(payment),)
        }
        self._by_nonce = {each.authorization_nonce: name for name, each in payments.items()}
        self.step: Callable[[], None] = lambda: None
        self.quorum = LoneQuorum(self)

    def _view(self) -> ModelBlock:
        """One machine's head."""
        if self._weather.outage or self._rng.random() < self._weather.lost_request:
            raise ChainUnavailable("no answer")
        lag = self._rng.randint(1, MAX_LAG) if self._rng.random() < self._weather.lag else 0
        heads = self._model.heads
        return heads[max(0, len(heads) - 1 - lag)]

    def _at(self, block: int | str | None) -> ModelBlock:
        view = self._view()
        if not isinstance(block, int):
            return view
        found = view.at(block)
        if found is None:
            raise ChainUnavailable("header not found")
        return found

    async def read(self, reads: Sequence[Read], block: int | None = None) -> tuple[bytes, ...]:
        view = self._at(block)
        return tuple(self._answer(each, view) for each in reads)

    def _answer(self, read: Read, view: ModelBlock) -> bytes:
        if isinstance(read, CodeOf):
            return b"" if len(read.address) == 20 and read.address[0] == 0x9A else b"\x01"
        calldata = self._used.get((read.target, read.calldata))
        if calldata is not None:
            return (calldata in view.paid).to_bytes(32)
        if len(read.calldata) == 4:  # name() and version()
            return encode(["string"], ["model"])
        return PLENTY.to_bytes(32)

    async def simulate(
        self, call: Call, sender: bytes, gas_cap: int, block: str = "latest"
    ) -> Reverted | None:
        return self._simulated(call, self._view())

    def _simulated(self, call: Call, view: ModelBlock) -> Reverted | None:
        if not call.calldata or self._model.payable(call.calldata, view):
            return None
        return Reverted(b"")

    async def prepare(
        self, call: Call, sender: bytes, gas_cap: int, block: str = "latest"
    ) -> Preparation | Reverted:
        reverted = self._simulated(call, self._view())
        if reverted is not None:
            return reverted
        nonce = await self.account_nonce(sender)
        return Preparation(100_000, await self.fee_market(), 10**30, nonce)

    endpoints = ()

    async def fee_market(self) -> FeeMarket:
        return FeeMarket(self._view().base_fee, GWEI // 10)

    async def head(self) -> Block:
        return self._view().header

    async def block(self, which: int | bytes | str) -> Block | None:
        view = self._view()
        if isinstance(which, bytes):
            found = self._model.known(which)
        else:
            found = view.at(which) if isinstance(which, int) else view
        return None if found is None else found.header

    async def receipts(self, hashes: Iterable[bytes]) -> dict[bytes, Receipt]:
        view = self._view()
        found = ((each, self._model.receipt(each, view)) for each in hashes)
        return {each: receipt for each, receipt in found if receipt is not None}

    async def code(self, address: bytes) -> bytes:
        self._view()
        return b""

    async def account_nonce(self, address: bytes, block: int | str = "latest") -> int:
        view = self._at(block)
        count = view.account_nonces.get(address, 0)
        while block == "pending" and (address, count) in self._model.mempool:
            count += 1
        return count

    async def account_nonces(
        self, addresses: Iterable[bytes], block: int | str
    ) -> dict[bytes, int]:
        return {address: await self.account_nonce(address, block) for address in addresses}

    def logs_of(self, wanted: LogFilter, first: int, last: int) -> tuple[Log, ...]:
        nonce = wanted.topics[-1]
        assert nonce is not None
        log = self._view().paid.get(self._by_nonce[nonce])
        return (log,) if log is not None and first <= log.block_number <= last else ()

    async def broadcast(self, raw: bytes) -> NodeFault | None:
        """What the pool says is not told: the loop must not depend on hearing of it."""
        self.step()
        weather = self._weather
        if weather.outage or self._rng.random() < weather.lost_request:
            self._events["send without an answer"] += 1
            return NodeFault.UNAVAILABLE
        self._model.accept(self._signed(raw))
        if self._rng.random() < weather.lost_reply:
            self._events["send without an answer"] += 1
            return NodeFault.UNAVAILABLE
        return None


class LoneQuorum(Quorum):
    """There is one endpoint, whichever machine answers behind it."""

    def __init__(self, node: ModelNode) -> None:
        self._node = node
        self._alone_since = {}

    @property
    def several(self) -> bool:
        return False

    async def account_nonce(self, address: bytes, block: int | str = "latest") -> Answer[int]:
        return Answer(Agreement.AGREED, await self._node.account_nonce(address, block))

    async def receipt(self, transaction_hash: bytes) -> Answer[Receipt | None]:
        receipts = await self._node.receipts([transaction_hash])
        return Answer(Agreement.AGREED, receipts.get(transaction_hash))

    async def pooled_nonces(self, address: bytes) -> tuple[int, ...]:
        return (await self._node.account_nonce(address, "pending"),)

    async def logs(self, wanted: LogFilter, first: int, last: int) -> tuple[Log, ...]:
        return self._node.logs_of(wanted, first, last)
