"""The command `check`: is everything in place to settle? It prints one line a check."""

import argparse
import asyncio
import json
import os
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aiohttp
from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError
from msgspec import Struct, structs

from facilitator.chain.answers import ChainUnavailable, to_hex
from facilitator.chain.client import Chain
from facilitator.chain.rpc import RPC
from facilitator.commands.agreement import hashes_alike
from facilitator.config.database import PostgreSQL
from facilitator.config.networks import Network, Token
from facilitator.config.settings import Config, NetworkConfig, load_config
from facilitator.domain.schemes import jeju
from facilitator.ethereum.abi import WORD, Call, address_word, selector
from facilitator.ethereum.addresses import ZERO_ADDRESS, checksum
from facilitator.ethereum.eip712 import domain_separator
from facilitator.ethereum.fees import initial_fees
from facilitator.ethereum.secp256k1 import Signer
from facilitator.journal.open import open_store
from facilitator.journal.store import SharedStore, Store, StoreError, StoreLocked

SETTLEMENT_GAS = 175_000  # the dearest way to settle, measured
ENOUGH_FOR = 10  # settlements that a signer should be able to pay for
QUOTED_LENGTH = 100  # characters of a contract's text that are printed

# of X402Facilitator
_SUPPORTED_TOKENS = selector("supportedTokens(address)")
_TOKEN_DECIMALS = selector("tokenDecimals(address)")
# of tokens
_DECIMALS = selector("decimals()")
_AUTHORIZATION_STATE = selector("authorizationState(address,bytes32)")
_DOMAIN_SEPARATOR = selector("DOMAIN_SEPARATOR()")
_EIP712_DOMAIN = selector("eip712Domain()")
_NAME = selector("name()")
_VERSION = selector("version()")

# The answer of eip712Domain() (EIP-5267): which members are in use, each member, extensions.
_EIP5267 = ("bytes1", "string", "string", "uint256", "address", "bytes32", "uint256[]")
_FOUR_MEMBERS = b"\x0f"  # name, version, chainId, verifyingContract; no salt


class Finding(Struct, frozen=True):
    """What one check found."""

    subject: str
    ok: bool
    detail: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command `check`."""
    parser.add_argument(
        "--network",
        metavar="NAME",
        help="check this network (default: the primary one and every one with a contract or with"
        " tokens beside USDC)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON array instead")


async def run(options: argparse.Namespace) -> int:
    """Check what the environment configures. Return 0 when every check succeeds, 1 when one does
    not. Raises ConfigError.
    """
    config = load_config(os.environ)
    names = [options.network] if options.network else _to_check(config)
    findings = []
    async with aiohttp.ClientSession() as session:
        for name in names:
            network = config.served(name)
            chain = Chain(RPC(network.rpc_urls, name=name, session=session))
            async for finding in _network(config, network, chain):
                findings.append(finding)
                _print(finding, quiet=options.json)
    for finding in await _journal(config):
        findings.append(finding)
        _print(finding, quiet=options.json)
    if options.json:
        print(json.dumps([structs.asdict(finding) for finding in findings]))
    return 0 if all(finding.ok for finding in findings) else 1


def _to_check(config: Config) -> list[str]:
    return [
        name
        for name, network in config.networks.items()
        if network.contract is not None
        or any(token != network.usdc for token in network.tokens)
        or name == config.primary_network
    ]


def _print(finding: Finding, *, quiet: bool) -> None:
    if not quiet:
        print(f"{'ok  ' if finding.ok else 'FAIL'} {finding.subject}: {finding.detail}", flush=True)


async def _network(config: Config, network: NetworkConfig, chain: Chain) -> AsyncIterator[Finding]:
    """Yield the finding of each check of one network, until the node does not answer."""
    name = network.network.name
    try:
        chain_id = await chain.chain_id()
        yield Finding(f"{name} node", True, "answers")
        expected = network.network.chain_id
        right = chain_id == expected
        yield Finding(f"{name} chain id", right, f"{chain_id}, expected {expected}")
        if right:
            for finding in await _signers(config, name, chain):
                yield finding
            async for finding in _contract(config, network, chain):
                yield finding
            for token in network.tokens:
                for finding in await _check_token(network.network, token, chain):
                    yield finding
            for finding in await _check_factories(name, config.allowed_factories, chain):
                yield finding
    except ChainUnavailable as fault:
        yield Finding(f"{name} node", False, str(fault))


async def _signers(config: Config, name: str, chain: Chain) -> list[Finding]:
    if not config.keys:
        return [Finding(f"{name} signer", False, "no signing key (FACILITATOR_PRIVATE_KEY)")]
    fees = initial_fees(await chain.fee_market(), config.max_fee_per_gas)
    price = config.max_fee_per_gas if fees is None else fees.max_fee_per_gas
    addresses = [Signer(key.secret).address for key in config.keys]
    balances = await asyncio.gather(*(chain.balance(address) for address in addresses))
    return [
        Finding(
            f"{name} signer {checksum(address)}",
            balance >= ENOUGH_FOR * SETTLEMENT_GAS * price,
            f"{balance} wei, enough for about {balance // max(SETTLEMENT_GAS * price, 1)}"
            " settlements",
        )
        for address, balance in zip(addresses, balances, strict=True)
    ]


async def _contract(config: Config, network: NetworkConfig, chain: Chain) -> AsyncIterator[Finding]:
    name, contract = network.network.name, network.contract
    if contract is None:
        # The standard dialect needs none, but the primary network is not ready without one.
        enough = name != config.primary_network and bool(network.tokens)
        without = "none configured (X402_FACILITATOR_ADDRESS)"
        detail = f"{without}: only the standard dialect is settled" if enough else without
        yield Finding(f"{name} contract", enough, detail)
        return
    [answer] = await chain.read([jeju.stats_call(contract)])
    state = jeju.read_stats(answer)
    where = checksum(contract)
    if state is None:
        yield Finding(f"{name} contract", False, f"no X402Facilitator at {where}")
        return
    yield Finding(f"{name} contract", True, where)
    agrees = await hashes_alike(chain, network.network.chain_id, contract, name)
    compared = "agrees with ours" if agrees else "differs: another domain or network name"
    yield Finding(f"{name} hashPayment", agrees, f"{compared} (network name {name!r})")
    fee = config.protocol_fee_bps
    detail = f"{state.fee_bps} bps, PROTOCOL_FEE_BPS says {fee}"
    yield Finding(f"{name} fee", state.fee_bps == fee, detail)
    recipient = config.fee_recipient
    same = recipient is None or recipient == state.fee_recipient
    yield Finding(f"{name} fee recipient", same, checksum(state.fee_recipient))
    if network.usdc is None:
        yield Finding(f"{name} token", False, f"no USDC known ({name} USDC_ADDRESS)")
        return
    usdc = network.usdc
    word = address_word(usdc.address)
    supported, decimals = await chain.read(
        [Call(contract, _SUPPORTED_TOKENS + word), Call(contract, _TOKEN_DECIMALS + word)]
    )
    takes = bool(int.from_bytes(supported))
    detail = f"{'taken' if takes else 'not taken'} by the contract"
    yield Finding(f"{name} token {checksum(usdc.address)}", takes, detail)
    # The contract has 0 for a token whose decimals nobody set, and reads that as 6.
    known = int.from_bytes(decimals) or 6
    yield Finding(f"{name} token decimals", known == usdc.decimals, str(known))


async def _check_token(network: Network, token: Token, chain: Chain) -> list[Finding]:
    """Compare a token's contract with its configuration: code, decimals, EIP-712 domain, EIP-3009.
    A payer signs for the configured domain, and a signature for another domain than the token's own
    never settles. Raises ChainUnavailable.
    """

    def found(aspect: str, ok: bool, detail: str) -> Finding:
        subject = f"{network.name} {token.symbol} {aspect} {checksum(token.address)}"
        return Finding(subject, ok, detail)

    if not await chain.code(token.address):
        return [found("code", False, "no contract there")]
    state_of_nobody = _AUTHORIZATION_STATE + address_word(ZERO_ADDRESS) + bytes(WORD)
    domain_calls = (_DOMAIN_SEPARATOR, _EIP712_DOMAIN, _NAME, _VERSION)
    calls = (_DECIMALS, state_of_nobody, *domain_calls)
    answers = await chain.read([Call(token.address, calldata) for calldata in calls])
    same, compared = _compare_domain(network, token, *answers[2:])
    answered = _number(answers[0])
    takes = _number(answers[1]) in (0, 1)
    return [
        found("code", True, "has code"),
        found("decimals", answered == token.decimals, _compare_decimals(token, answered)),
        found("domain", same, compared),
        found("authorizations", takes, "EIP-3009" if takes else "no authorizationState (EIP-3009)"),
    ]


def _compare_decimals(token: Token, answered: int | None) -> str:
    if answered is None:
        return "the token does not tell"
    same = answered == token.decimals
    return str(answered) if same else f"{answered}, configured {token.decimals}"


def _compare_domain(
    network: Network,
    token: Token,
    separator: bytes,
    eip712_domain: bytes,
    name: bytes,
    version: bytes,
) -> tuple[bool, str]:
    """Return whether the token's domain is the configured one, and a line about it; the last four
    arguments are the token's answers. DOMAIN_SEPARATOR() decides, since signatures are checked with
    it. Where a token has none, eip712Domain() decides, else name() and version().
    """
    described = _decoded(_EIP5267, eip712_domain)
    names = (_decoded_text(name), _decoded_text(version)) if described is None else described[1:3]
    listed = ", ".join(
        f"{kind} {'untold' if text is None else repr(text[:QUOTED_LENGTH])}"
        for kind, text in zip(("name", "version"), names, strict=True)
    )
    ours = domain_separator(token.name, token.version, network.chain_id, token.address)
    if len(separator) == WORD:
        if separator == ours:
            return True, "DOMAIN_SEPARATOR() agrees"
        return False, f"DOMAIN_SEPARATOR() differs; the token says {listed}"
    if described is not None:
        expected = (_FOUR_MEMBERS, token.name, token.version, network.chain_id)
        agrees = described[:5] == (*expected, to_hex(token.address))
        compared = "agrees" if agrees else f"differs: {listed}, chain id {described[3]}"
        return agrees, f"eip712Domain() {compared}"
    agrees = names == (token.name, token.version)
    compared = "agree" if agrees else f"differ: {listed}"
    return agrees, f"name() and version() {compared}"


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


async def _check_factories(network: str, factories: Sequence[bytes], chain: Chain) -> list[Finding]:
    """Return a finding for each factory of smart wallets (EIP-6492): whether it is deployed.
    Raises ChainUnavailable.
    """
    codes = await asyncio.gather(*(chain.code(factory) for factory in factories))
    return [
        Finding(
            f"{network} factory {checksum(factory)}", bool(code), "has code" if code else "no code"
        )
        for factory, code in zip(factories, codes, strict=True)
    ]


async def _journal(config: Config) -> list[Finding]:
    try:
        store = await open_store(config.database)
        try:
            await store.ping()
            notices = await _notices(store, config)
        finally:
            await store.close()
    except StoreLocked:
        return [Finding("journal", True, f"{config.database}, in use by a running service")]
    except StoreError as error:
        return [Finding("journal", False, str(error))]
    return [Finding("journal", True, f"{config.database}, can be written"), *notices]


async def _notices(store: Store, config: Config) -> list[Finding]:
    """Return whether notifications arrive at DATABASE_LISTEN_URL, and nothing where it is unset."""
    direct = config.database.direct if isinstance(config.database, PostgreSQL) else None
    if direct is None or not isinstance(store, SharedStore):
        return []
    why = await store.notices.prove()
    detail = "outcomes are told at once" if why is None else why
    return [Finding("journal notices", why is None, f"{direct}, {detail}")]
