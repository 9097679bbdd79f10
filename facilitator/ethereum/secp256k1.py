"""Signatures on secp256k1, by libsecp256k1 through coincurve.

A signature is 65 bytes, r ++ s ++ v. Nothing falls back to eth-keys' pure Python backend, which is
25 times slower.
"""

from coincurve import PrivateKey, PublicKey

from facilitator.ethereum.keccak import keccak256

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
# EIP-2: of the two signatures (r, s) and (r, n - s) that the curve accepts, only the low one
# counts.
HALF_ORDER = ORDER // 2
SIGNATURE_LENGTH = 65


class InvalidSignature(ValueError):
    """The bytes are no signature that a contract would accept; the text says why, without them."""


def address_of(public_key: PublicKey) -> bytes:
    """Return the 20-byte address of a public key: the tail of keccak256 of its point."""
    return keccak256(public_key.format(compressed=False)[1:])[12:]


def normalise(signature: bytes) -> bytes:
    """Return `signature` with v as 27 or 28, the only values that OpenZeppelin's ECDSA accepts.

    0 and 1 are taken as 27 and 28. Raises InvalidSignature for another length or v, for r or s out
    of range, and for a high s (EIP-2).
    """
    if len(signature) != SIGNATURE_LENGTH:
        raise InvalidSignature(f"expected {SIGNATURE_LENGTH} bytes, got {len(signature)}")
    v = signature[64]
    if v in (0, 1):
        v += 27
    if v not in (27, 28):
        raise InvalidSignature("v must be 27 or 28")
    r = int.from_bytes(signature[:32])
    s = int.from_bytes(signature[32:64])
    if not 0 < r < ORDER or not 0 < s < ORDER:
        raise InvalidSignature("r or s out of range")
    if s > HALF_ORDER:
        raise InvalidSignature("s is in the upper half of the order (EIP-2)")
    return signature[:64] + bytes((v,))


def recover(digest: bytes, signature: bytes) -> bytes:
    """Return the address that signed the 32-byte `digest`; `signature` as `normalise` returns it.

    Raises InvalidSignature where no public key fits.
    """
    compact = signature[:64] + bytes((signature[64] - 27,))
    try:
        key = PublicKey.from_signature_and_message(compact, digest, hasher=None)
    except Exception:  # coincurve raises bare Exception when libsecp256k1 finds no point
        raise InvalidSignature("no public key fits") from None
    return address_of(key)


class Signer:
    """One private key and the address that it controls. The key never shows in a repr."""

    __slots__ = ("_key", "address")

    def __init__(self, secret: bytes) -> None:
        """`secret` is the 32-byte private key. Raises ValueError where it is out of range."""
        self._key = PrivateKey(secret)
        self.address = address_of(self._key.public_key)

    def sign(self, digest: bytes) -> tuple[int, int, int]:
        """Return (parity, r, s) over a 32-byte digest: deterministic (RFC 6979), s low (EIP-2)."""
        signature = self._key.sign_recoverable(digest, hasher=None)
        return signature[64], int.from_bytes(signature[:32]), int.from_bytes(signature[32:64])

    def __repr__(self) -> str:
        return f"Signer(0x{self.address.hex()})"
