"""A token as it is configured, against its contract: a payer signs for the EIP-712 domain that the
configuration names, and what was signed for another one than the token's own never settles.
"""

from typing import Any

from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError
from msgspec import Struct

from facilitator.chain.client import Chain
from facilitator.commands.checks import Finding
from facilitator.config.networks import Network, Token
from facilitator.ethereum.abi import WORD, address_word, selector
from facilitator.ethereum.addresses import ZERO_ADDRESS, checksum
from facilitator.ethereum.eip712 import domain_separator
from facilitator.ethereum.transactions import Call

QUOTED_LENGTH = 100  # characters of a text that a contract answers with

_DECIMALS = selector("decimals()")
_AUTHORIZATION_STATE = selector("authorizationState(address,bytes32)")
_DOMAIN_SEPARATOR = selector("DOMAIN_SEPARATOR()")
_EIP712_DOMAIN = selector("eip712Domain()")
_NAME = selector("name()")
_VERSION = selector("version()")

# What eip712Domain() answers (EIP-5267): the members in use, then all of them, then extensions.
_EIP5267 = ("bytes1", "string", "string", "uint256", "address", "bytes32", "uint256[]")
_FOUR_MEMBERS = b"\x0f"  # name, version, chainId, verifyingContract; no salt


class _Domain(Struct, frozen=True):
    """What a token answers about its domain, in the three ways that there are. A separator of
    other than 32 bytes is none; the rest is None where the token does not tell.
    """

    separator: bytes
    described: tuple[Any, ...] | None
    name: str | None
    version: str | None


async def check_token(network: Network, token: Token, chain: Chain) -> list[Finding]:
    """Whether it is there, its decimals, its domain, and whether it takes authorizations
    (EIP-3009). Raises ChainUnavailable.
    """

    def found(aspect: str, ok: bool, detail: str) -> Finding:
        subject = f"{network.name} {token.symbol} {aspect} {checksum(token.address)}"
        return Finding(subject, ok, detail)

    if not await chain.code(token.address):
        return [found("code", False, "no contract there")]
    state_of_nobody = _AUTHORIZATION_STATE + address_word(ZERO_ADDRESS) + bytes(WORD)
    asked = (
        *(_DECIMALS, state_of_nobody),
        *(_DOMAIN_SEPARATOR, _EIP712_DOMAIN, _NAME, _VERSION),
    )
    answers = await chain.read([Call(token.address, calldata) for calldata in asked])
    decimals, state, separator, described, name, version = answers
    domain = _Domain(
        separator, _decoded(_EIP5267, described), _decoded_text(name), _decoded_text(version)
    )
    same, said = _compare_domain(network, token, domain)
    told = _number(decimals)
    takes = _number(state) in (0, 1)
    return [
        found("code", True, "has code"),
        found("decimals", told == token.decimals, _compare_decimals(token, told)),
        found("domain", same, said),
        found("authorizations", takes, "EIP-3009" if takes else "no authorizationState (EIP-3009)"),
    ]


def _compare_decimals(token: Token, told: int | None) -> str:
    if told is None:
        return "the token does not tell"
    return str(told) if told == token.decimals else f"{told}, configured {token.decimals}"


def _compare_domain(network: Network, token: Token, domain: _Domain) -> tuple[bool, str]:
    """The separator is what signatures are checked with; the rest stands in where it is not told,
    and explains where it differs.
    """
    names = (domain.name, domain.version)
    if domain.described is not None:
        names = domain.described[1:3]
    spoken = ", ".join(
        f"{kind} {'untold' if text is None else repr(text[:QUOTED_LENGTH])}"
        for kind, text in zip(("name", "version"), names, strict=True)
    )
    ours = domain_separator(token.name, token.version, network.chain_id, token.address)
    if len(domain.separator) == WORD:
        if domain.separator == ours:
            return True, "DOMAIN_SEPARATOR() agrees"
        return False, f"DOMAIN_SEPARATOR() differs; the token says {spoken}"
    if domain.described is not None:
        fields, name, version, chain_id, contract, *_ = domain.described
        told = (fields, name, version, chain_id, contract)
        address = "0x" + token.address.hex()
        agrees = told == (_FOUR_MEMBERS, token.name, token.version, network.chain_id, address)
        said = "agrees" if agrees else f"differs: {spoken}, chain id {chain_id}"
        return agrees, f"eip712Domain() {said}"
    agrees = names == (token.name, token.version)
    said = "agree" if agrees else f"differ: {spoken}"
    return agrees, f"name() and version() {said}"


def _number(answer: bytes) -> int | None:
    return int.from_bytes(answer) if len(answer) == WORD else None


def _decoded(types: tuple[str, ...], answer: bytes) -> tuple[Any, ...] | None:
    try:
        return decode(types, answer)
    except (DecodingError, ValueError, OverflowError):  # a string that is not UTF-8, among others
        return None


def _decoded_text(answer: bytes) -> str | None:
    decoded = _decoded(("string",), answer)
    return None if decoded is None else decoded[0]
