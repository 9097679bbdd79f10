"""What OP-stack chains charge for a transaction's data on L1, beside its gas."""

from facilitator.chain.answers import ChainUnavailable
from facilitator.chain.client import Chain
from facilitator.ethereum.abi import Call, Dynamic, encode_arguments, selector
from facilitator.ethereum.addresses import parse_address
from facilitator.ethereum.keccak import keccak256

# A predeploy of every OP-stack chain (Optimism's specification of predeploys).
GAS_PRICE_ORACLE = parse_address("0x420000000000000000000000000000000000000F")
_GET_L1_FEE = selector("getL1Fee(bytes)")
# A transaction's fields beside its calldata and signature, which the oracle counts by itself; made
# of bytes that no compression shortens.
ENVELOPE = 128
# The base fee of L1 rises by 12.5 % a block at most: this covers six of them.
HEADROOM = 2


class DataFees:
    """Asks one chain. Whether it charges at all is asked once."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._charges: bool | None = None

    async def most(self, call: Call) -> int:
        """The most wei that the data of a transaction with this call may cost soon; 0 where the
        chain charges for gas alone. Raises ChainUnavailable.
        """
        if self._charges is None:
            self._charges = bool(await self._chain.code(GAS_PRICE_ORACLE))
        if not self._charges:
            return 0
        filling = b"".join(keccak256(bytes((n,))) for n in range(ENVELOPE // 32))
        question = _GET_L1_FEE + encode_arguments(Dynamic(filling + call.calldata))
        [answer] = await self._chain.read([Call(GAS_PRICE_ORACLE, question)])
        if len(answer) != 32:
            raise ChainUnavailable("the gas price oracle gives no fee")
        return HEADROOM * int.from_bytes(answer)
