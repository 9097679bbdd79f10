"""Signatures of payers that are contracts: EIP-1271, and EIP-6492 for those not deployed yet."""

from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError
from msgspec import Struct

from facilitator.ethereum.abi import Dynamic, encode_arguments, selector
from facilitator.ethereum.transactions import Call

IS_VALID_SIGNATURE = selector("isValidSignature(bytes32,bytes)")
# What isValidSignature returns for a good one (EIP-1271): its own selector.
_ACCEPTED = IS_VALID_SIGNATURE + bytes(28)
# What a signature that brings its wallet's deployment along ends in (EIP-6492).
MAGIC_SUFFIX = bytes.fromhex("6492") * 16


class WrappedSignature(Struct, frozen=True):
    """A signature for a wallet that `factory`, called with `factory_calldata`, would deploy."""

    factory: bytes
    factory_calldata: bytes
    signature: bytes


def is_valid_signature(wallet: bytes, digest: bytes, signature: bytes) -> Call:
    """The question to a wallet whether it accepts `signature` of a 32-byte digest (EIP-1271)."""
    return Call(wallet, IS_VALID_SIGNATURE + encode_arguments(digest, Dynamic(signature)))


def accepts(answer: bytes) -> bool:
    """Whether a wallet's answer means yes: one word, the magic value and nothing else."""
    return answer == _ACCEPTED


def unwrap(signature: bytes) -> WrappedSignature | None:
    """What an EIP-6492 signature wraps; None where it is not one.

    Raises ValueError where it ends like one and cannot be read.
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
