"""What we ask a chain, in our words: facts, simulation, observation, broadcast.

Reads of one payment leave in one coalesced round trip. Whatever a node says is parsed strictly:
an answer that is not what the method gives counts as no answer (ChainUnavailable), so garbage never
makes anything valid.
"""

import asyncio
from collections.abc import Iterable, Sequence

from msgspec import Struct

from facilitator.ethereum.fees import FeeMarket, fee_market
from facilitator.ethereum.receipts import Block, Log, Receipt
from facilitator.ethereum.transactions import Call
from facilitator.node import (
    ChainUnavailable,
    NodeFault,
    classify,
    items,
    member,
    parse_block,
    parse_data,
    parse_log,
    parse_receipt,
    quantity,
    revert_data,
    to_hex,
)
from facilitator.rpc import RPC, RPCError, TransportError
from facilitator.strict_json import JSON

# No simulated or sent call may use more: a payer could otherwise make a signer, or the node, pay
# for a megabyte of text or a token's endless loop. `settle` needs 107 k, the gasless way up to 175
# k.
GAS_CAP = 500_000
# Storage that another payment has touched since the estimate can make a call dearer.
GAS_MARGIN_PERCENT = 25
FEE_HISTORY_BLOCKS = 10
FEE_HISTORY_PERCENTILE = 50


class Reverted(Struct, frozen=True):
    """A call that the chain would refuse; `data` is the revert's, empty where there was none."""

    data: bytes


class Preparation(Struct, frozen=True):
    """What signing a call takes: its gas limit, the fee market, and of the sender its wei and how
    many transactions it has mined.
    """

    gas_limit: int
    market: FeeMarket
    balance: int
    account_nonce: int


class Chain:
    """One chain behind its RPC endpoints. Every method raises ChainUnavailable."""

    def __init__(self, rpc: RPC) -> None:
        self._rpc = rpc

    async def chain_id(self) -> int:
        """The id that the node says it has."""
        return quantity(await self._ask("eth_chainId"))

    async def read(self, calls: Sequence[Call], block: int | None = None) -> tuple[bytes, ...]:
        """The answers of view functions, at the latest block unless a number is given; one that
        reverts answers nothing.
        """
        tag = "latest" if block is None else hex(block)
        answers = await self._try_all("eth_call", [(_call_object(call), tag) for call in calls])
        return tuple(_returned(answer) for answer in answers)

    async def read_and_simulate(
        self, calls: Sequence[Call], call: Call, sender: bytes
    ) -> tuple[tuple[bytes, ...], Reverted | None]:
        """What `read` and `simulate` answer, at the latest block."""
        asked = [(_call_object(each), "latest") for each in calls]
        asked.append((_call_object(call, sender), "latest"))
        *read, simulated = await self._try_all("eth_call", asked)
        reverted = simulated if isinstance(simulated, Reverted) else None
        return tuple(_returned(answer) for answer in read), reverted

    async def simulate(self, call: Call, sender: bytes) -> Reverted | None:
        """Run `call` on top of the latest block, as `sender` would send it."""
        answer = await self._try("eth_call", _call_object(call, sender), "latest")
        return answer if isinstance(answer, Reverted) else None

    async def prepare(self, call: Call, sender: bytes) -> Preparation | Reverted:
        """Simulate `call` and learn what signing it takes, in one round trip."""
        estimate, market, balance, account_nonce = await asyncio.gather(
            self._try("eth_estimateGas", _call_object(call, sender), "latest"),
            self.fee_market(),
            self.balance(sender),
            self.account_nonce(sender),
        )
        if isinstance(estimate, Reverted):
            return estimate
        gas = quantity(estimate)
        limit = min(gas + gas * GAS_MARGIN_PERCENT // 100, GAS_CAP)
        return Preparation(limit, market, balance, account_nonce)

    async def fee_market(self) -> FeeMarket:
        """The next block's base fee and the tip of recent blocks."""
        blocks = hex(FEE_HISTORY_BLOCKS)
        answer = await self._ask("eth_feeHistory", blocks, "latest", [FEE_HISTORY_PERCENTILE])
        base_fees = items(member(answer, "baseFeePerGas"))
        rewards = answer.get("reward") if isinstance(answer, dict) else None
        if not base_fees:
            raise ChainUnavailable("eth_feeHistory: no base fee")
        return fee_market(
            [quantity(fee) for fee in base_fees],
            [[quantity(tip) for tip in items(row)] for row in items(rewards or [])],
        )

    async def head(self) -> Block:
        """The latest block."""
        block = await self.block("latest")
        if block is None:
            raise ChainUnavailable("no latest block")
        return block

    async def block(self, which: int | bytes | str) -> Block | None:
        """A block by number, hash or tag; None where the node has none."""
        if isinstance(which, bytes):
            answer = await self._ask("eth_getBlockByHash", to_hex(which), False)
        else:
            tag = hex(which) if isinstance(which, int) else which
            answer = await self._ask("eth_getBlockByNumber", tag, False)
        return None if answer is None else parse_block(answer)

    async def receipts(self, hashes: Iterable[bytes]) -> dict[bytes, Receipt]:
        """The receipts of those of the transactions that are mined, by hash."""
        wanted = tuple(hashes)
        answers = await asyncio.gather(
            *(self._ask("eth_getTransactionReceipt", to_hex(one)) for one in wanted)
        )
        receipts = {}
        for transaction_hash, answer in zip(wanted, answers, strict=True):
            if answer is not None:
                receipt = parse_receipt(answer)
                if receipt.transaction_hash != transaction_hash:
                    raise ChainUnavailable("receipt of another transaction")
                receipts[transaction_hash] = receipt
        return receipts

    async def balance(self, address: bytes) -> int:
        """Wei of `address` at the latest block."""
        return quantity(await self._ask("eth_getBalance", to_hex(address), "latest"))

    async def account_nonce(self, address: bytes, block: int | str = "latest") -> int:
        """How many transactions of `address` are mined as of a block number or tag."""
        tag = hex(block) if isinstance(block, int) else block
        return quantity(await self._ask("eth_getTransactionCount", to_hex(address), tag))

    async def account_nonces(
        self, addresses: Iterable[bytes], block: int | str
    ) -> dict[bytes, int]:
        """The same of several addresses, in one round trip."""
        asked = tuple(addresses)
        counts = await asyncio.gather(*(self.account_nonce(one, block) for one in asked))
        return dict(zip(asked, counts, strict=True))

    async def logs(
        self, address: bytes, topics: Sequence[bytes | None], first: int, last: int
    ) -> tuple[Log, ...]:
        """A contract's events in blocks first..last; a topic that is None matches any."""
        query = {
            "address": to_hex(address),
            "topics": [None if topic is None else to_hex(topic) for topic in topics],
            "fromBlock": hex(first),
            "toBlock": hex(last),
        }
        return tuple(parse_log(entry) for entry in items(await self._ask("eth_getLogs", query)))

    async def broadcast(self, raw: bytes) -> NodeFault | None:
        """Offer signed bytes to the chain: None where a node has them now.

        Never raises: without an answer they may have been sent all the same (UNAVAILABLE).
        """
        try:
            await self._rpc.call("eth_sendRawTransaction", to_hex(raw))
        except RPCError as error:
            fault = classify(error)
            return None if fault is NodeFault.ALREADY_KNOWN else fault
        except TransportError:
            return NodeFault.UNAVAILABLE
        return None

    async def _try(self, method: str, *params: object) -> JSON | Reverted:
        """Ask something that the chain may refuse to execute."""
        try:
            return await self._rpc.call(method, *params)
        except RPCError as error:
            return _reverted(method, error)
        except TransportError as error:
            raise ChainUnavailable(f"{method}: {error}", error.retry_after) from None

    async def _try_all(
        self, method: str, calls: Sequence[tuple[object, ...]]
    ) -> list[JSON | Reverted]:
        """The same, several times."""
        try:
            answers = await self._rpc.call_all(method, calls)
        except TransportError as error:
            raise ChainUnavailable(f"{method}: {error}", error.retry_after) from None
        return [
            _reverted(method, answer) if isinstance(answer, RPCError) else answer
            for answer in answers
        ]

    async def _ask(self, method: str, *params: object) -> JSON:
        answer = await self._try(method, *params)
        if isinstance(answer, Reverted):
            raise ChainUnavailable(f"{method}: refused")
        return answer


def _reverted(method: str, error: RPCError) -> Reverted:
    """What a node's error says about the call; ChainUnavailable where it is about the node."""
    if classify(error) is not NodeFault.REVERTED:
        raise ChainUnavailable(f"{method}: {error}") from None
    return Reverted(revert_data(error))


def _returned(answer: JSON | Reverted) -> bytes:
    return b"" if isinstance(answer, Reverted) else parse_data(answer)


def _call_object(call: Call, sender: bytes | None = None) -> dict[str, str]:
    described = {"to": to_hex(call.target), "data": to_hex(call.calldata), "gas": hex(GAS_CAP)}
    if sender is not None:
        described["from"] = to_hex(sender)
    return described
