"""One chain as the rest of the program uses it: facts, simulations, receipts, transaction counts,
and the broadcast of signed bytes.

Reads of one payment leave in one coalesced round trip. Answers are parsed strictly: one that is not
what the method gives counts as no answer (ChainUnavailable), so garbage never makes anything valid.
"""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress

from msgspec import Struct

from facilitator.chain.answers import (
    ChainUnavailable,
    NodeFault,
    call_object,
    classify,
    counter,
    most_telling,
    parse_block,
    parse_data,
    parse_market,
    parse_receipt,
    quantity,
    question,
    revert_data,
    send_fault,
    to_hex,
)
from facilitator.chain.quorum import FEE_HISTORY, Quorum
from facilitator.chain.rpc import RPC, Endpoint, RPCError, TransportError
from facilitator.domain.strict_json import JSON
from facilitator.ethereum.abi import Call, CodeOf, Read
from facilitator.ethereum.fees import FeeMarket
from facilitator.ethereum.gas import gas_limit
from facilitator.ethereum.receipts import Block, Receipt


class Reverted(Struct, frozen=True):
    """A call that would revert; `data` is the revert data, empty where there was none."""

    data: bytes


class Preparation(Struct, frozen=True):
    """What must be known to sign a call: its gas limit, the fee market, the sender's balance in wei
    and its account nonce, the number of its transactions that are mined.
    """

    gas_limit: int
    market: FeeMarket
    balance: int
    account_nonce: int


class Chain:
    """One chain behind its RPC endpoints. Every method raises ChainUnavailable."""

    def __init__(self, rpc: RPC) -> None:
        self._rpc = rpc
        self.quorum = Quorum(rpc)

    @property
    def endpoints(self) -> Sequence[Endpoint]:
        """Return the endpoints, for metrics: their state and counts, by names that are no URLs."""
        return self._rpc.endpoints

    async def chain_id(self) -> int:
        """Return the chain id that the node answers."""
        return quantity(await self._ask("eth_chainId"))

    async def read(self, reads: Sequence[Read], block: int | None = None) -> tuple[bytes, ...]:
        """Return the code of addresses and what view functions return, in the order of `reads`, at
        the latest block unless a number is given; empty for a function that reverts.
        """
        tag = "latest" if block is None else hex(block)
        answers = await self._try_all([question(each, tag) for each in reads])
        return tuple(_returned(*each) for each in zip(reads, answers, strict=True))

    async def read_and_simulate(
        self, reads: Sequence[Read], call: Call, sender: bytes, gas_cap: int
    ) -> tuple[tuple[bytes, ...], Reverted | None]:
        """Return what `read` and `simulate` return, in one round trip, at the latest block."""
        asked = [question(each, "latest") for each in reads]
        asked.append(("eth_call", (call_object(call, gas_cap, sender), "latest")))
        *read, simulated = await self._try_all(asked)
        reverted = simulated if isinstance(simulated, Reverted) else None
        return tuple(_returned(*each) for each in zip(reads, read, strict=True)), reverted

    async def simulate(
        self, call: Call, sender: bytes, gas_cap: int, block: str = "latest"
    ) -> Reverted | None:
        """Execute `call` at a block's tag without sending it, as `sender` would: return the revert,
        None where it would succeed.
        """
        answer = await self._try("eth_call", call_object(call, gas_cap, sender), block)
        return answer if isinstance(answer, Reverted) else None

    async def prepare(
        self, call: Call, sender: bytes, gas_cap: int, block: str = "latest"
    ) -> Preparation | Reverted:
        """Return what signing `call` takes, in one round trip, or the revert where it would fail at
        the block's tag. The gas limit is at most `gas_cap` and never below the transaction's
        intrinsic gas, whatever the node estimates: no node would accept it.
        """
        estimate, market, balance, account_nonce = await asyncio.gather(
            self._try("eth_estimateGas", call_object(call, gas_cap, sender), block),
            self.fee_market(),
            self.balance(sender),
            self.account_nonce(sender),
        )
        if isinstance(estimate, Reverted):
            return estimate
        limit = gas_limit(call, quantity(estimate), gas_cap)
        if limit is None:
            return Reverted(b"")  # a node that checks intrinsic gas would answer the same
        return Preparation(limit, market, balance, account_nonce)

    async def fee_market(self) -> FeeMarket:
        """Return the next block's base fee and the tip of recent blocks."""
        return await self.quorum.fee_market(parse_market(await self._ask(*FEE_HISTORY)))

    async def head(self) -> Block:
        """Return the latest block that the endpoint shows."""
        block = await self.block("latest")
        if block is None:
            raise ChainUnavailable("no latest block")
        return block

    async def block(self, which: int | bytes | str) -> Block | None:
        """Return a block by number, hash or tag; None where the node has none."""
        if isinstance(which, bytes):
            answer = await self._ask("eth_getBlockByHash", to_hex(which), False)
        else:
            tag = hex(which) if isinstance(which, int) else which
            answer = await self._ask("eth_getBlockByNumber", tag, False)
        return None if answer is None else parse_block(answer)

    async def receipts(self, hashes: Iterable[bytes]) -> dict[bytes, Receipt]:
        """Return the receipts of those transactions that are mined, by hash. A receipt that is
        malformed, or another transaction's, is left out, so that it does not hide the others.
        """
        wanted = tuple(hashes)
        answers = await asyncio.gather(
            *(self._ask("eth_getTransactionReceipt", to_hex(one)) for one in wanted)
        )
        receipts = {}
        for transaction_hash, answer in zip(wanted, answers, strict=True):
            with suppress(ChainUnavailable):
                receipt = None if answer is None else parse_receipt(answer)
                if receipt is not None and receipt.transaction_hash == transaction_hash:
                    receipts[transaction_hash] = receipt
        return receipts

    async def balance(self, address: bytes) -> int:
        """Return the wei of `address` at the latest block."""
        return quantity(await self._ask("eth_getBalance", to_hex(address), "latest"))

    async def code(self, address: bytes) -> bytes:
        """Return the code at `address` as of the latest block; empty where there is no contract."""
        return parse_data(await self._ask("eth_getCode", to_hex(address), "latest"))

    async def account_nonce(self, address: bytes, block: int | str = "latest") -> int:
        """Return how many transactions of `address` are mined as of a block number or tag."""
        tag = hex(block) if isinstance(block, int) else block
        return counter(await self._ask("eth_getTransactionCount", to_hex(address), tag))

    async def account_nonces(
        self, addresses: Iterable[bytes], block: int | str
    ) -> dict[bytes, int]:
        """Return what `account_nonce` does, for several addresses in one round trip."""
        asked = tuple(addresses)
        counts = await asyncio.gather(*(self.account_nonce(one, block) for one in asked))
        return dict(zip(asked, counts, strict=True))

    async def broadcast(self, raw: bytes) -> NodeFault | None:
        """Send signed bytes to every endpoint that is well. Return None as soon as one has them,
        or the most telling fault where none accepts them.

        Never raises: where no endpoint answers (UNAVAILABLE) they may still have been sent.
        """
        pending = await self._rpc.call_everywhere("eth_sendRawTransaction", to_hex(raw))
        faults: list[NodeFault] = []
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            answers = [send_fault(future.exception()) for future in done]
            if None in answers:
                return None
            faults += [fault for fault in answers if fault is not None]
        return most_telling(faults)

    async def _try(self, method: str, *params: object) -> JSON | Reverted:
        """Return the result of a call, or the revert where executing it fails."""
        try:
            return await self._rpc.call(method, *params)
        except RPCError as error:
            return _reverted(method, error)
        except TransportError as error:
            raise ChainUnavailable(f"{method}: {error}", error.retry_after) from None

    async def _try_all(
        self, calls: Sequence[tuple[str, tuple[object, ...]]]
    ) -> list[JSON | Reverted]:
        """Return what `_try` does, for several calls in one round trip."""
        try:
            answers = await self._rpc.call_all(calls)
        except TransportError as error:
            raise ChainUnavailable(str(error), error.retry_after) from None
        return [
            _reverted(method, answer) if isinstance(answer, RPCError) else answer
            for (method, _), answer in zip(calls, answers, strict=True)
        ]

    async def _ask(self, method: str, *params: object) -> JSON:
        answer = await self._try(method, *params)
        if isinstance(answer, Reverted):
            raise ChainUnavailable(f"{method}: refused")
        return answer


def _reverted(method: str, error: RPCError) -> Reverted:
    """Return the revert that a node's error reports; raise ChainUnavailable where the error is
    about the node, not about the call.
    """
    # GAS_TOO_LOW: the gas cap is below what the calldata alone costs.
    if classify(error) not in (NodeFault.REVERTED, NodeFault.GAS_TOO_LOW):
        raise ChainUnavailable(f"{method}: {error}") from None
    return Reverted(revert_data(error))


def _returned(read: Read, answer: JSON | Reverted) -> bytes:
    if not isinstance(answer, Reverted):
        return parse_data(answer)
    if isinstance(read, CodeOf):
        raise ChainUnavailable("eth_getCode: refused")
    return b""
