"""The command `check`: is everything in place to settle? One line a check, before real money
flows."""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator

import aiohttp

from facilitator.chain.answers import ChainUnavailable
from facilitator.chain.client import Chain
from facilitator.chain.rpc import RPC
from facilitator.commands.agreement import hashes_alike
from facilitator.commands.checks import Finding
from facilitator.commands.checks.factories import check_factories
from facilitator.commands.checks.tokens import check_token
from facilitator.config.database import PostgreSQL
from facilitator.config.settings import Config, ConfigError, NetworkConfig, load_config
from facilitator.domain.schemes import jeju
from facilitator.ethereum.abi import address_word, selector
from facilitator.ethereum.addresses import checksum
from facilitator.ethereum.fees import initial_fees
from facilitator.ethereum.secp256k1 import Signer
from facilitator.ethereum.transactions import Call
from facilitator.journal.open import open_store
from facilitator.journal.store import SharedStore, Store, StoreError, StoreLocked

SETTLEMENT_GAS = 175_000  # the dearest way to settle, measured
ENOUGH_FOR = 10  # settlements that a signer should be able to pay for

_SUPPORTED_TOKENS = selector("supportedTokens(address)")
_TOKEN_DECIMALS = selector("tokenDecimals(address)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command `check`."""
    parser.add_argument(
        "--network",
        metavar="NAME",
        help="check this network (default: the primary one and every one with a contract or with"
        " tokens beside USDC)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON array instead")


async def run(options: argparse.Namespace) -> int:
    """Check what the environment configures: 0 when all is in place, 1 when something is not."""
    try:
        config = load_config(os.environ)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    names = [options.network] if options.network else _to_check(config)
    findings = []
    async with aiohttp.ClientSession() as session:
        for name in names:
            if name not in config.networks:
                print(f"error: {name} is not served with these settings", file=sys.stderr)
                return 2
            network = config.networks[name]
            chain = Chain(RPC(network.rpc_urls, name=name, session=session))
            async for finding in _network(config, network, chain):
                findings.append(finding)
                _say(finding, quiet=options.json)
    for finding in await _journal(config):
        findings.append(finding)
        _say(finding, quiet=options.json)
    if options.json:
        print(
            json.dumps([{name: getattr(f, name) for name in f.__struct_fields__} for f in findings])
        )
    return 0 if all(finding.ok for finding in findings) else 1


def _to_check(config: Config) -> list[str]:
    return [
        name
        for name, network in config.networks.items()
        if network.contract is not None
        or any(token != network.usdc for token in network.tokens)
        or name == config.primary_network
    ]


def _say(finding: Finding, *, quiet: bool) -> None:
    if not quiet:
        print(f"{'ok  ' if finding.ok else 'FAIL'} {finding.subject}: {finding.detail}", flush=True)


async def _network(config: Config, network: NetworkConfig, chain: Chain) -> AsyncIterator[Finding]:
    """Every check of one network; it ends where nothing further can be asked."""
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
                for finding in await check_token(network.network, token, chain):
                    yield finding
            for finding in await check_factories(name, config.allowed_factories, chain):
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
        # Without one the standard dialect is settled all the same, but not the primary network's
        # readiness.
        enough = name != config.primary_network and bool(network.tokens)
        without = "none configured (X402_FACILITATOR_ADDRESS)"
        said = f"{without}: only the standard dialect is settled" if enough else without
        yield Finding(f"{name} contract", enough, said)
        return
    [answer] = await chain.read([jeju.stats_call(contract)])
    state = jeju.read_stats(answer)
    where = checksum(contract)
    if state is None:
        yield Finding(f"{name} contract", False, f"no X402Facilitator at {where}")
        return
    yield Finding(f"{name} contract", True, where)
    agrees = await hashes_alike(chain, network.network.chain_id, contract, name)
    said = "agrees with ours" if agrees else "differs: another domain or network name"
    yield Finding(f"{name} hashPayment", agrees, f"{said} (network name {name!r})")
    fee = config.protocol_fee_bps
    told = f"{state.fee_bps} bps, PROTOCOL_FEE_BPS says {fee}"
    yield Finding(f"{name} fee", state.fee_bps == fee, told)
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
    said = "taken" if takes else "not taken"
    yield Finding(f"{name} token {checksum(usdc.address)}", takes, f"{said} by the contract")
    # The contract takes 0, which it has for tokens that nobody set, as 6.
    known = int.from_bytes(decimals) or 6
    yield Finding(f"{name} token decimals", known == usdc.decimals, str(known))


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
    """Whether LISTEN reaches the journal's server where DATABASE_LISTEN_URL says."""
    if not isinstance(store, SharedStore) or not isinstance(config.database, PostgreSQL):
        return []
    if config.database.direct is None:
        return []
    why = await store.notices.prove()
    told = "outcomes are told at once" if why is None else why
    return [Finding("journal notices", why is None, f"{config.database.direct}, {told}")]
