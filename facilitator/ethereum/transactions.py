"""Raw EIP-1559 transactions, signed here and nowhere else.

A signer pays gas with its own money, so the builder itself holds an allow-list of what it may sign.
A call must name one of the allowed (target, selector) pairs and carry no ether; in a group of calls
(`multicall3`) each of them must. The only exception is a gap filler: an empty transfer to itself.
"""

from msgspec import Struct

from facilitator.ethereum.abi import Call
from facilitator.ethereum.fees import Fees
from facilitator.ethereum.keccak import keccak256
from facilitator.ethereum.multicall3 import AGGREGATE3, MULTICALL3, inner_calls
from facilitator.ethereum.secp256k1 import Signer

TRANSACTION_TYPE = b"\x02"  # EIP-2718 envelope of an EIP-1559 transaction
_GROUP = (MULTICALL3, AGGREGATE3)


class ForbiddenCall(Exception):
    """A bug or an attack: something asked a signer for a call that it must never make."""


class SignedTransaction(Struct, frozen=True):
    """What goes to eth_sendRawTransaction, and its hash."""

    raw: bytes
    hash: bytes


class TransactionBuilder:
    """Signs for one chain. `allowed` holds every (target, selector) that a signer may call; an
    empty target with the first four bytes of creation code allows a deployment. Where `aggregate3`
    is among them, each call inside it must be allowed as well, or go to one of `factories`, which
    see Multicall3 as the caller, never a signer.
    """

    def __init__(
        self,
        chain_id: int,
        allowed: frozenset[tuple[bytes, bytes]],
        *,
        factories: frozenset[bytes] = frozenset(),
    ) -> None:
        self._chain_id = chain_id
        self._allowed = allowed
        self._factories = factories

    def allows(self, call: Call, sender: bytes) -> bool:
        """Return whether `sender` may sign this: an allowed call, or a gap filler of its own."""
        if call.target == sender and not call.calldata:
            return True
        named = (call.target, call.selector)
        if named not in self._allowed:
            return False
        return named != _GROUP or self._allows_inside(call)

    def _allows_inside(self, group: Call) -> bool:
        inner = inner_calls(group)
        return bool(inner) and all(
            each.target in self._factories
            or (each.target, each.selector) in self._allowed - {_GROUP}
            for each in inner
        )

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
    """Return the address of the contract that `sender` creates with this account nonce
    (Ethereum yellow paper, section 7).
    """
    return keccak256(encode_list(encode_bytes(sender), encode_int(account_nonce)))[12:]


# Recursive length prefix encoding (Ethereum yellow paper, appendix B), as transactions need it.


def encode_bytes(content: bytes) -> bytes:
    """Encode one string of bytes."""
    if len(content) == 1 and content[0] < 0x80:
        return content
    return _prefix(0x80, len(content)) + content


def encode_int(value: int) -> bytes:
    """Encode a non-negative integer, as its shortest big-endian bytes (zero: the empty string)."""
    return encode_bytes(value.to_bytes((value.bit_length() + 7) // 8))


def encode_list(*encoded: bytes) -> bytes:
    """Encode a list of items that are encoded already."""
    payload = b"".join(encoded)
    return _prefix(0xC0, len(payload)) + payload


def _prefix(base: int, length: int) -> bytes:
    if length < 56:
        return bytes((base + length,))
    size = length.to_bytes((length.bit_length() + 7) // 8)
    return bytes((base + 55 + len(size),)) + size
