"""Signatures of payers that are contracts: EIP-1271, and EIP-6492 for those not deployed yet."""

from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError
from msgspec import Struct

from facilitator.ethereum.abi import Call, Dynamic, encode_arguments, selector

IS_VALID_SIGNATURE = selector("isValidSignature(bytes32,bytes)")
# What isValidSignature returns for a good one (EIP-1271): its own selector.
_MAGIC = IS_VALID_SIGNATURE + bytes(28)
# The code of `_asking` returns the first byte of it for yes.
_YES = _MAGIC[:1]
# The end of a signature that brings its wallet's deployment along (EIP-6492).
MAGIC_SUFFIX = bytes.fromhex("6492") * 16


class WrappedSignature(Struct, frozen=True):
    """A signature for a wallet that `factory`, called with `factory_calldata`, would deploy."""

    factory: bytes
    factory_calldata: bytes
    signature: bytes


def is_valid_signature(wallet: bytes, digest: bytes, signature: bytes) -> Call:
    """Return the call that asks a wallet whether it accepts `signature` of a 32-byte digest
    (EIP-1271).

    It is creation code that asks in our stead, run by eth_call and never sent: a wallet's answer
    may be as long as its gas allows, half a megabyte and more, of which one byte comes back.
    """
    question = IS_VALID_SIGNATURE + encode_arguments(digest, Dynamic(signature))
    return Call(b"", _asking(wallet, len(question), _LENGTH) + question)


def _asking(wallet: bytes, length: int, offset: int) -> bytes:
    """Return code that sends the wallet the `length` bytes at `offset` in that code. It returns the
    first byte of an answer that is exactly the magic word, and nothing for any other answer.
    """
    return b"".join(
        (
            bytes.fromhex("6020 6000"),  # the answer's first 32 bytes go to 0
            bytes.fromhex("63") + length.to_bytes(4),
            bytes.fromhex("80 63") + offset.to_bytes(4),
            bytes.fromhex("6000 39"),  # CODECOPY
            bytes.fromhex("6000 73") + wallet,
            bytes.fromhex("5a fa"),  # STATICCALL with all gas: 1 where it did not fail
            bytes.fromhex("3d 6020 14 16"),  # and the answer is one word,
            bytes.fromhex("6000 51 7f") + _MAGIC,
            bytes.fromhex("14 16"),  # and that is the magic
            bytes.fromhex("6000 f3"),  # RETURN so many bytes
        )
    )


_LENGTH = len(_asking(bytes(20), 0, 0))


def accepts(answer: bytes) -> bool:
    """Return whether the answer to `is_valid_signature` means yes."""
    return answer == _YES


def unwrap(signature: bytes) -> WrappedSignature | None:
    """Return what an EIP-6492 signature wraps; None where it is not one.

    Raises ValueError where it ends like one and cannot be decoded.
    """
    if not signature.endswith(MAGIC_SUFFIX):
        return None
    try:
        factory, calldata, inner = decode(
            ["address", "bytes", "bytes"], signature[: -len(MAGIC_SUFFIX)]
        )
    except (DecodingError, OverflowError):  # eth-abi's own, and a length that no buffer has
        raise ValueError("malformed EIP-6492 signature") from None
    return WrappedSignature(bytes.fromhex(factory[2:]), calldata, inner)
