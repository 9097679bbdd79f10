"""Typed structured data (EIP-712), with the constant parts computed once."""

from functools import lru_cache

from facilitator.ethereum.abi import address_word, uint_word
from facilitator.ethereum.keccak import keccak256

_DOMAIN_TYPE = keccak256(
    b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
)


@lru_cache(maxsize=1024)
def domain_separator(name: str, version: str, chain_id: int, verifying_contract: bytes) -> bytes:
    """Return hashStruct of a domain with exactly these four members."""
    return keccak256(
        _DOMAIN_TYPE
        + keccak256(name.encode())
        + keccak256(version.encode())
        + uint_word(chain_id)
        + address_word(verifying_contract)
    )


def typed_data_digest(separator: bytes, struct_hash: bytes) -> bytes:
    """Return what a wallet signs: keccak256(0x1901 ++ domain separator ++ hashStruct(message))."""
    return keccak256(b"\x19\x01" + separator + struct_hash)
