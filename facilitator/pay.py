"""The command `pay`: a payer and its seller in one, to try a facilitator out."""

import argparse
import json
import os
import secrets
import sys
import time
from typing import Any

import aiohttp
from msgspec import Struct

from facilitator.chain import Chain
from facilitator.config import Config, ConfigError, NetworkConfig, load_config
from facilitator.environment import Environment
from facilitator.ethereum.abi import address_word, selector, uint_word
from facilitator.ethereum.addresses import checksum
from facilitator.ethereum.secp256k1 import Signer
from facilitator.ethereum.transactions import Call
from facilitator.networks import NETWORKS
from facilitator.node import ChainUnavailable
from facilitator.options import address, amount, line, url, whole_number
from facilitator.payer import auth_params, request_body, sign_authorization, sign_payment
from facilitator.rpc import RPC
from facilitator.sending import (
    JobFailed,
    expect_chain,
    expect_money,
    plan,
    receipt,
    say,
    send,
    transaction_name,
)
from facilitator.strict_json import StrictJSONError, decode

KEY_VARIABLE = "PAYER_PRIVATE_KEY"
KEY_OPTION = "--key-file"
TIMEOUT = 120  # seconds, unless --timeout says otherwise; the service's own wait is 45
_APPROVE = selector("approve(address,uint256)")


class Purchase(Struct, frozen=True, kw_only=True):
    """Who pays whom, where and how much (atomic units); the payer's repr hides its key."""

    payer: Signer
    network: NetworkConfig
    contract: bytes
    asset: bytes
    pay_to: bytes
    amount: int
    maximum: int
    resource: str
    scheme: str
    lifetime: int  # seconds that the payment stays good


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command `pay`."""
    parser.add_argument(
        "--to", type=address, required=True, metavar="ADDRESS", help="the seller, who is paid"
    )
    parser.add_argument(
        "--amount",
        type=amount,
        required=True,
        metavar="UNITS",
        help="how much, in atomic units of the token: 1000000 is 1 USDC",
    )
    parser.add_argument(
        "--resource",
        type=line,
        default="/",
        metavar="TEXT",
        help="what is paid for (default: %(default)s)",
    )
    parser.add_argument(
        "--url",
        type=url,
        help="the facilitator (default: http://127.0.0.1 on FACILITATOR_PORT)",
    )
    parser.add_argument(
        "--network",
        choices=list(NETWORKS),
        help="pay on this network (default: the primary one, X402_PRIMARY_NETWORK)",
    )
    parser.add_argument(
        "--asset",
        type=address,
        metavar="ADDRESS",
        help="the token to pay in (default: the network's USDC)",
    )
    parser.add_argument(
        "--contract",
        type=address,
        metavar="ADDRESS",
        help="the X402Facilitator to sign for (default: the configured one)",
    )
    parser.add_argument(
        "--gasless",
        action="store_true",
        help="sign an EIP-3009 authorization of the token too and settle with that, which needs no"
        " allowance; for the network's USDC",
    )
    parser.add_argument(
        "--upto", action="store_true", help='pay with the scheme "upto" instead of "exact"'
    )
    parser.add_argument(
        "--max",
        type=amount,
        metavar="UNITS",
        help="with --upto, the most that the seller asks for (default: the amount)",
    )
    parser.add_argument(
        "--approve",
        action="store_true",
        help="first set the contract's allowance to the amount, in a transaction that the payer"
        " pays the gas for",
    )
    parser.add_argument("--verify-only", action="store_true", help="verify and do not settle")
    parser.add_argument(
        KEY_OPTION,
        metavar="PATH",
        help=f"a file with the payer's private key (default: the variable {KEY_VARIABLE})",
    )
    parser.add_argument(
        "--timeout",
        type=whole_number(1, 3_600),
        default=TIMEOUT,
        metavar="SECONDS",
        help="how long to wait for a reply or a block (default: %(default)s)",
    )


async def run(options: argparse.Namespace) -> int:
    """Pay: 0 where the facilitator says yes, 1 where it does not, 2 for a wrong setting."""
    try:
        config = load_config(os.environ)
        purchase = _purchase(config, options)
        target = options.url or _default_url(config)
        timeout = aiohttp.ClientTimeout(total=options.timeout)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            if options.approve:
                await _approve(session, config, purchase, options.timeout)
            body = _body(purchase, gasless=options.gasless)
            reply = await _post(session, target, "/verify", body)
            done = reply.get("isValid") is True
            if done and not options.verify_only:
                path = "/settle/gasless" if options.gasless else "/settle"
                reply = await _post(session, target, path, body)
                done = reply.get("success") is True
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (JobFailed, ChainUnavailable) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(reply, indent=2))
    return 0 if done else 1


def _purchase(config: Config, options: argparse.Namespace) -> Purchase:
    """What the options and the settings say. Raises ConfigError where they do not say enough."""
    name = options.network or config.primary_network
    if name not in config.networks:
        raise ConfigError(f"{name} is not served with these settings")
    network = config.networks[name]
    contract = options.contract or network.contract
    if contract is None:
        raise ConfigError(
            f"no contract known on {name}: give --contract or set X402_FACILITATOR_ADDRESS"
        )
    usdc = None if network.usdc is None else network.usdc.address
    asset = options.asset or usdc
    if asset is None:
        raise ConfigError(f"no USDC known on {name}: give --asset")
    if options.gasless and asset != usdc:
        # The signature is over the token's own EIP-712 domain.
        raise ConfigError("--gasless is for the network's USDC: no other token's domain is known")
    if options.max is not None and not options.upto:
        raise ConfigError("--max is for --upto")
    return Purchase(
        payer=_payer(options.key_file),
        network=network,
        contract=contract,
        asset=asset,
        pay_to=options.to,
        amount=options.amount,
        maximum=options.amount if options.max is None else options.max,
        resource=options.resource,
        scheme="upto" if options.upto else "exact",
        lifetime=config.max_payment_age,
    )


def _payer(key_file: str | None) -> Signer:
    if key_file is None:
        keys = Environment(os.environ).keys(KEY_VARIABLE, "")
    else:
        keys = Environment({KEY_OPTION: key_file}).keys("", KEY_OPTION)
    if len(keys) != 1:
        source = KEY_VARIABLE if key_file is None else KEY_OPTION
        what = "several keys" if keys else "no key"
        raise ConfigError(f"{what} to pay with in {source}: it must be one")
    return Signer(keys[0].secret)


def _default_url(config: Config) -> str:
    if config.port == 0:
        raise ConfigError("FACILITATOR_PORT is 0, so the service may be anywhere: give --url")
    return f"http://127.0.0.1:{config.port}"


async def _approve(
    session: aiohttp.ClientSession, config: Config, purchase: Purchase, timeout: int
) -> None:
    """Let the contract take the amount, and wait until it may."""
    network = purchase.network.network
    chain = Chain(RPC(purchase.network.rpc_urls, name=network.name, session=session))
    await expect_chain(chain, network)
    arguments = address_word(purchase.contract) + uint_word(purchase.amount)
    call = Call(purchase.asset, _APPROVE + arguments)
    planned = await plan(
        chain, call, purchase.payer.address, max_fee_per_gas=config.max_fee_per_gas
    )
    expect_money(planned, network)
    say(f"approving {checksum(purchase.contract)} for {purchase.amount}")
    signed = await send(chain, network.chain_id, purchase.payer, planned)
    if await receipt(chain, signed.hash, timeout) is None:
        raise JobFailed(f"not mined within {timeout} s: {transaction_name(signed.hash)}")


def _body(purchase: Purchase, *, gasless: bool) -> dict[str, Any]:
    """The request: the signed payment, and what its seller asks for."""
    chain_id = purchase.network.network.chain_id
    now = int(time.time())
    header = sign_payment(
        purchase.payer,
        chain_id=chain_id,
        contract=purchase.contract,
        network=purchase.network.network.name,
        asset=purchase.asset,
        pay_to=purchase.pay_to,
        amount=purchase.amount,
        resource=purchase.resource,
        timestamp=now,
        scheme=purchase.scheme,
    )
    say(f"payer {header['payer']} signed {purchase.amount} units, nonce {header['nonce']}")
    body = request_body(header, maximum=purchase.maximum)
    if gasless:
        token = purchase.network.usdc
        assert token is not None  # --gasless is for this one alone
        valid_before = now + purchase.lifetime + 1  # exclusive
        authorization = sign_authorization(
            *(purchase.payer, token, chain_id, purchase.contract, purchase.amount),
            *(0, valid_before, secrets.token_bytes(32)),
        )
        body["authParams"] = auth_params(authorization)
    return body


async def _post(
    session: aiohttp.ClientSession, target: str, path: str, body: dict[str, Any]
) -> dict[str, Any]:
    """A facilitator's reply. Raises JobFailed where there is none; a payment may be settled then
    all the same.
    """
    try:
        async with session.post(target + path, json=body, allow_redirects=False) as response:
            reply = decode(await response.read())
            status = response.status
    except TimeoutError:
        raise JobFailed(f"POST {path}: no reply in time; what became of it is unknown") from None
    except aiohttp.ClientConnectorError:
        raise JobFailed(f"{target} cannot be reached") from None
    except aiohttp.ClientError:
        raise JobFailed(f"POST {path}: no reply; what became of it is unknown") from None
    except StrictJSONError:
        raise JobFailed(f"POST {path}: the reply is not JSON; is {target} a facilitator?") from None
    if not isinstance(reply, dict):
        raise JobFailed(f"POST {path}: the reply is not an object; is {target} a facilitator?")
    why = reply.get("invalidReason") or reply.get("error")
    say(f"POST {path} -> {status}" + (f", {why!r}" if why else ""))
    return reply
