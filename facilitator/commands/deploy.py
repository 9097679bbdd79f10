"""The command `deploy`: put the X402Facilitator contract on a network."""

import argparse
import asyncio
import json
import os
import time

import aiohttp
from msgspec import Struct

from facilitator.chain.answers import to_hex
from facilitator.chain.client import Chain
from facilitator.chain.rpc import RPC
from facilitator.commands.agreement import hashes_alike
from facilitator.commands.contracts import creation_code, load
from facilitator.commands.options import address, line, whole_number
from facilitator.commands.sending import (
    JobFailed,
    Plan,
    expect_chain,
    expect_money,
    money,
    plan,
    receipt,
    say,
    send,
)
from facilitator.config.networks import NETWORKS
from facilitator.config.settings import (
    CONTRACT_VARIABLE,
    Config,
    ConfigError,
    NetworkConfig,
    load_config,
)
from facilitator.ethereum.abi import Call
from facilitator.ethereum.addresses import checksum
from facilitator.ethereum.receipts import Receipt
from facilitator.ethereum.secp256k1 import Signer
from facilitator.ethereum.transactions import created_address

# The contract takes about 1.7 million, measured, and 25,000 more for each further token; EIP-7825
# lets no transaction have more than 16.7 million.
DEPLOYMENT_GAS_CAP = 5_000_000
RECEIPT_TIMEOUT = 180  # seconds, unless --timeout says otherwise
CODE_POLL = 0.5  # seconds


class Order(Struct, frozen=True, kw_only=True):
    """What to deploy and where; the repr of `deployer` hides its key."""

    network: NetworkConfig
    deployer: Signer
    owner: bytes
    fee_recipient: bytes
    tokens: tuple[bytes, ...]
    network_name: str
    variable: str  # the environment variable that names the contract to the service


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command `deploy`."""
    parser.add_argument(
        "--network",
        choices=list(NETWORKS),
        help="deploy to this network (default: the primary one, X402_PRIMARY_NETWORK)",
    )
    parser.add_argument(
        "--owner",
        type=address,
        metavar="ADDRESS",
        help="who may change the contract's settings (default: the deployer)",
    )
    parser.add_argument(
        "--fee-recipient",
        type=address,
        metavar="ADDRESS",
        help="where the protocol fees go (default: FEE_RECIPIENT_ADDRESS)",
    )
    parser.add_argument(
        "--token",
        type=address,
        action="append",
        metavar="ADDRESS",
        help="a token that payments can be made in; may be repeated (default: the network's USDC)",
    )
    parser.add_argument(
        "--network-name",
        type=line,
        metavar="NAME",
        help="the network name that payers sign (default: the network's own, which is what this"
        " service takes)",
    )
    parser.add_argument(
        "--timeout",
        type=whole_number(1, 3_600),
        default=RECEIPT_TIMEOUT,
        metavar="SECONDS",
        help="how long to wait for the transaction's block (default: %(default)s)",
    )
    parser.add_argument(
        "--yes",
        action="store_true",
        help="spend real money: without it nothing is sent to a mainnet",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object as the result")


async def run(options: argparse.Namespace) -> int:
    """Deploy the contract. Raises ConfigError, JobFailed and ChainUnavailable."""
    config = load_config(os.environ)
    order = _order(config, options)
    async with aiohttp.ClientSession() as session:
        network = order.network
        name = network.network.name
        chain = Chain(RPC(network.rpc_urls, name=name, session=session))
        planned = await _planned(chain, order, config.max_fee_per_gas)
        if network.network.is_mainnet and not options.yes:
            most = money(planned.most, network.network)
            raise ConfigError(
                f"{name} is a mainnet: this would spend up to {most} of"
                f" {checksum(order.deployer.address)} on gas; add --yes to do it"
            )
        contract, mined = await _deploy(chain, order, planned, options.timeout)
    _print_result(config, order, contract, mined, as_json=options.json)
    return 0


def _order(config: Config, options: argparse.Namespace) -> Order:
    """Return the deployment that options and settings describe. Raises ConfigError where something
    is missing.
    """
    name = options.network or config.primary_network
    network = config.served(name)
    keys = [key for key in config.keys if not key.retires]
    if not keys:
        raise ConfigError("no key to deploy with (FACILITATOR_PRIVATE_KEY)")
    fee_recipient = options.fee_recipient or config.fee_recipient
    if fee_recipient is None:
        raise ConfigError("no fee recipient: give --fee-recipient or set FEE_RECIPIENT_ADDRESS")
    if not options.token and network.usdc is None:
        variable = f"{network.network.variable}_USDC_ADDRESS"
        raise ConfigError(f"no USDC is known on {name}: give --token or set {variable}")
    usdc = () if network.usdc is None else (network.usdc.address,)
    deployer = Signer(keys[0].secret)
    return Order(
        network=network,
        deployer=deployer,
        owner=options.owner or deployer.address,
        fee_recipient=fee_recipient,
        tokens=tuple(dict.fromkeys(options.token or usdc)),
        network_name=options.network_name or name,
        variable=_variable(config, network),
    )


def _variable(config: Config, network: NetworkConfig) -> str:
    """Return the name of the variable to set. For the primary network it is the one without a
    network's name, unless the other one is in use: the service refuses two that differ.
    """
    named = f"{CONTRACT_VARIABLE}_{network.network.variable}"
    is_primary = network.network.name == config.primary_network
    return CONTRACT_VARIABLE if is_primary and named not in os.environ else named


async def _planned(chain: Chain, order: Order, max_fee_per_gas: int) -> Plan:
    """Plan the transaction, and check all that can be checked before it is sent. Raises JobFailed
    and ChainUnavailable.
    """
    network = order.network.network
    await expect_chain(chain, network)
    codes = await asyncio.gather(*(chain.code(token) for token in order.tokens))
    for token, code in zip(order.tokens, codes, strict=True):
        if not code:
            raise JobFailed(f"no contract at {checksum(token)} on {network.name}: not a token")
    arguments = (order.owner, order.fee_recipient, order.tokens, order.network_name)
    call = Call(b"", creation_code(load("X402Facilitator"), *arguments))
    planned = await plan(
        chain,
        call,
        order.deployer.address,
        max_fee_per_gas=max_fee_per_gas,
        gas_cap=DEPLOYMENT_GAS_CAP,
    )
    say(f"X402Facilitator for {network.name}, chain id {network.chain_id}")
    say(f"  deployer       {checksum(order.deployer.address)}")
    say(f"  owner          {checksum(order.owner)}")
    say(f"  fee recipient  {checksum(order.fee_recipient)}")
    for token in order.tokens:
        say(f"  token          {checksum(token)}")
    say(f"  network name   {order.network_name!r}")
    say(f"  gas            at most {planned.gas_limit}, {money(planned.most, network)}")
    return planned


async def _deploy(chain: Chain, order: Order, planned: Plan, timeout: int) -> tuple[bytes, Receipt]:
    """Send the transaction and wait for the contract; return its address and the receipt. Raises
    JobFailed and ChainUnavailable.
    """
    network = order.network.network
    expect_money(planned, network)
    deadline = time.monotonic() + timeout
    contract = created_address(planned.sender, planned.account_nonce)
    say(f"the contract will be at {checksum(contract)}")
    signed = await send(chain, network.chain_id, order.deployer, planned)
    mined = await receipt(chain, signed.hash, timeout)
    if mined is None:
        raise JobFailed(
            f"not mined within {timeout} s: {to_hex(signed.hash)}; do not deploy again:"
            f" once it is mined the contract is at {checksum(contract)}, set"
            f" {order.variable} to that and run `facilitator check`"
        )
    cost = money(mined.gas_cost, network)
    say(f"mined in block {mined.block_number}: {mined.gas_used} gas, {cost}")
    # Another node behind the same URL may be a block late.
    while not await chain.code(contract):
        if time.monotonic() > deadline:
            raise JobFailed(f"mined, but the node shows no code at {checksum(contract)}")
        await asyncio.sleep(CODE_POLL)
    if not await hashes_alike(chain, network.chain_id, contract, order.network_name):
        raise JobFailed(f"the contract at {checksum(contract)} does not hash payments as we do")
    say("its hashPayment agrees with ours")
    return contract, mined


def _print_result(
    config: Config, order: Order, contract: bytes, mined: Receipt, *, as_json: bool
) -> None:
    """Print the result on standard output: lines for a shell, or one JSON object."""
    network = order.network.network
    environment = {order.variable: checksum(contract)}
    if order.fee_recipient != config.fee_recipient:
        environment["FEE_RECIPIENT_ADDRESS"] = checksum(order.fee_recipient)
    if as_json:
        description = {
            "network": network.name,
            "chainId": network.chain_id,
            "contract": checksum(contract),
            "transaction": to_hex(mined.transaction_hash),
            "deployer": checksum(order.deployer.address),
            "owner": checksum(order.owner),
            "feeRecipient": checksum(order.fee_recipient),
            "tokens": [checksum(token) for token in order.tokens],
            "networkName": order.network_name,
            "gasUsed": mined.gas_used,
            "gasCost": str(mined.gas_cost),
            "environment": environment,
        }
        print(json.dumps(description, indent=2))
    else:
        print(f"# X402Facilitator on {network.name}: {checksum(contract)}")
        for name, value in environment.items():
            print(f"export {name}={value}")
    if order.network_name != network.name:
        say(
            f"note: this service settles payments signed for {network.name!r} on this network, and"
            f" this contract takes those signed for {order.network_name!r}"
        )
    say("next: give the service that setting, then run `facilitator check`")
