"""Raw EIP-1559 transactions, signed here and nowhere else.

A signer pays gas with its own money, so what it may sign is an allow-list in the builder itself: a
call must name one of the allowed (target, selector) pairs and carry no ether; the only other thing
is a gap filler, an empty transfer of nothing to itself.
"""

from msgspec import Struct

from facilitator.ethereum.fees import Fees
from facilitator.ethereum.keccak import keccak256
from facilitator.ethereum.rlp import encode_bytes, encode_int, encode_list
from facilitator.ethereum.secp256k1 import Signer

TRANSACTION_TYPE = b"\x02"  # EIP-2718 envelope of an EIP-1559 transaction
FILLER_GAS = 21_000


class ForbiddenCall(Exception):
    """A bug or an attack: something asked a signer for a call that it must never make."""


class Call(Struct, frozen=True):
    """A contract call: 20-byte target and calldata. With an empty target it creates a contract, and
    the calldata is creation code followed by the constructor's arguments.
    """

    target: bytes
    calldata: bytes

    @property
    def selector(self) -> bytes:
        """The four bytes that name the function."""
        return self.calldata[:4]


class CodeOf(Struct, frozen=True):
    """The question for the code at an address, where a `Call` would ask a contract."""

    address: bytes


Read = Call | CodeOf


class SignedTransaction(Struct, frozen=True):
    """What goes to eth_sendRawTransaction, and its hash."""

    raw: bytes
    hash: bytes


class TransactionBuilder:
    """Signs for one chain. `allowed` holds every (target, selector) that a signer may call; an
    empty target with the first four bytes of creation code allows a deployment.
    """

    def __init__(self, chain_id: int, allowed: frozenset[tuple[bytes, bytes]]) -> None:
        self._chain_id = chain_id
        self._allowed = allowed

    def allows(self, call: Call, sender: bytes) -> bool:
        """Whether `sender` may sign this: an allowed call, or a gap filler of its own."""
        filler = call.target == sender and not call.calldata
        return filler or (call.target, call.selector) in self._allowed

    def sign(
        self, signer: Signer, *, account_nonce: int, call: Call, gas_limit: int, fees: Fees
    ) -> SignedTransaction:
        """Sign `call` with value 0. Raises ForbiddenCall unless it is allowed or a gap filler."""
        if not self.allows(call, signer.address):
            raise ForbiddenCall(f"0x{call.target.hex()} selector 0x{call.selector.hex()}")
        fields = (
            encode_int(self._chain_id),
            encode_int(account_nonce),
            encode_int(fees.max_priority_fee_per_gas),
            encode_int(fees.max_fee_per_gas),
            encode_int(gas_limit),
            encode_bytes(call.target),
            encode_int(0),
            encode_bytes(call.calldata),
            encode_list(),
        )
        parity, r, s = signer.sign(keccak256(TRANSACTION_TYPE + encode_list(*fields)))
        signature = (encode_int(parity), encode_int(r), encode_int(s))
        raw = TRANSACTION_TYPE + encode_list(*fields, *signature)
        return SignedTransaction(raw=raw, hash=keccak256(raw))


def created_address(sender: bytes, account_nonce: int) -> bytes:
    """Where a contract lands that `sender` creates in its transaction number `account_nonce`
    (Ethereum yellow paper, section 7).
    """
    return keccak256(encode_list(encode_bytes(sender), encode_int(account_nonce)))[12:]
