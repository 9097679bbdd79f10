"""The command `pay`: a payer and its seller in one, to try a facilitator out."""

import argparse
import json
import os
import secrets
import time
from typing import Any

import aiohttp
from msgspec import Struct

from facilitator.chain.answers import to_hex
from facilitator.chain.client import Chain
from facilitator.chain.rpc import RPC
from facilitator.commands.options import address, amount, line, url, whole_number
from facilitator.commands.payer import (
    auth_params,
    request_body,
    sign_authorization,
    sign_payment,
    standard_body,
    standard_requirements,
)
from facilitator.commands.sending import (
    JobFailed,
    expect_chain,
    expect_money,
    plan,
    receipt,
    say,
    send,
)
from facilitator.config.environment import Environment
from facilitator.config.networks import NETWORKS, Token
from facilitator.config.settings import Config, ConfigError, NetworkConfig, load_config
from facilitator.domain.strict_json import StrictJSONError, decode
from facilitator.ethereum.abi import Call, address_word, selector, uint_word
from facilitator.ethereum.addresses import checksum
from facilitator.ethereum.secp256k1 import Signer

KEY_VARIABLE = "PAYER_PRIVATE_KEY"
KEY_OPTION = "--key-file"
JEJU_RESOURCE = "/"
# Clients and servers of version 1 accept nothing but a URL.
STANDARD_RESOURCE = "https://localhost/"

TIMEOUT = 120  # seconds, unless --timeout says otherwise; the service's own wait is 45
_APPROVE = selector("approve(address,uint256)")


class Purchase(Struct, frozen=True, kw_only=True):
    """A purchase: who pays whom, where and how much (atomic units).

    `x402_version` is None in the Jeju dialect, and `contract` in the standard one. `token` is None
    where it is not configured, and then nothing is signed under its domain.
    """

    payer: Signer
    network: NetworkConfig
    x402_version: int | None
    contract: bytes | None
    asset: bytes
    token: Token | None
    pay_to: bytes
    amount: int
    maximum: int
    resource: str
    scheme: str
    gasless: bool
    lifetime: int  # seconds for which the payment is valid


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command `pay`."""
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
        metavar="TEXT",
        help=f"what is paid for (default: {JEJU_RESOURCE}, with --x402-version"
        f" {STANDARD_RESOURCE})",
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
        " allowance; for tokens that are configured",
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
    parser.add_argument(
        "--x402-version",
        type=whole_number(1, 2),
        metavar="1|2",
        help="pay in this version of the standard dialect: an EIP-3009 authorization to the seller,"
        " in a token that is configured; neither contract nor allowance is needed",
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
    """Pay. Return 0 where the reply says `isValid` or `success`, 1 where it does not. Raises
    ConfigError, JobFailed and ChainUnavailable.
    """
    config = load_config(os.environ)
    bought = _purchase(config, options)
    target = options.url or _default_url(config)
    timeout = aiohttp.ClientTimeout(total=options.timeout)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        if options.approve:
            await _approve(session, config, bought, options.timeout)
        request = _jeju_body(bought) if bought.x402_version is None else _standard_body(bought)
        reply = await _post(session, target, "/verify", request)
        done = reply.get("isValid") is True
        if done and not options.verify_only:
            path = "/settle/gasless" if bought.gasless else "/settle"
            reply = await _post(session, target, path, request)
            done = reply.get("success") is True
    print(json.dumps(reply, indent=2))
    return 0 if done else 1


def _default_url(config: Config) -> str:
    if config.port == 0:
        raise ConfigError("FACILITATOR_PORT is 0, so the service may be anywhere: give --url")
    return f"http://127.0.0.1:{config.port}"


def _purchase(config: Config, options: argparse.Namespace) -> Purchase:
    """Return the purchase that options and settings describe. Raises ConfigError where something is
    missing, or two of them contradict each other.
    """
    version = options.x402_version
    _check_options(options)
    name = options.network or config.primary_network
    network = config.served(name)
    contract = options.contract or network.contract
    if contract is None and version is None:
        raise ConfigError(
            f"no contract known on {name}: give --contract or set X402_FACILITATOR_ADDRESS"
        )
    asset = options.asset or (None if network.usdc is None else network.usdc.address)
    if asset is None:
        raise ConfigError(f"no USDC known on {name}: give --asset")
    token = next((token for token in network.tokens if token.address == asset), None)
    if token is None and (options.gasless or version is not None):
        raise ConfigError(
            f"--asset is no token that is configured on {name}: --gasless and --x402-version sign"
            " under the token's own EIP-712 domain, which must be known"
        )
    return Purchase(
        payer=_payer(options.key_file),
        network=network,
        x402_version=version,
        contract=None if version is not None else contract,
        asset=asset,
        token=token,
        pay_to=options.to,
        amount=options.amount,
        maximum=options.amount if options.max is None else options.max,
        resource=options.resource or (JEJU_RESOURCE if version is None else STANDARD_RESOURCE),
        scheme="upto" if options.upto else "exact",
        gasless=options.gasless,
        lifetime=config.max_payment_age,
    )


def _check_options(options: argparse.Namespace) -> None:
    """Raise ConfigError for options that do not go together."""
    if options.max is not None and not options.upto:
        raise ConfigError("--max is for --upto")
    others = (options.gasless, options.upto, options.approve, options.contract is not None)
    if options.x402_version is not None and any(others):
        raise ConfigError(
            "--x402-version pays the seller directly: it goes with none of --gasless, --upto,"
            " --approve and --contract"
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


def _jeju_body(bought: Purchase) -> dict[str, Any]:
    """Return the request's body: the signed payment and its seller's requirements."""
    assert bought.contract is not None
    header = sign_payment(
        bought.payer,
        chain_id=bought.network.network.chain_id,
        contract=bought.contract,
        network=bought.network.network.name,
        asset=bought.asset,
        pay_to=bought.pay_to,
        amount=bought.amount,
        resource=bought.resource,
        timestamp=int(time.time()),
        scheme=bought.scheme,
    )
    _say_signed(bought, header["nonce"])
    request = request_body(header, maximum=bought.maximum)
    if bought.gasless:
        request["authParams"] = auth_params(_authorization(bought, bought.contract))
    return request


def _standard_body(bought: Purchase) -> dict[str, Any]:
    assert bought.token is not None
    assert bought.x402_version is not None
    requirements = standard_requirements(
        version=bought.x402_version,
        network=bought.network.network,
        token=bought.token,
        pay_to=bought.pay_to,
        amount=bought.amount,
        resource=bought.resource,
        lifetime=bought.lifetime,
    )
    authorization = _authorization(bought, bought.pay_to)
    _say_signed(bought, authorization["nonce"])
    return standard_body(
        requirements, authorization, version=bought.x402_version, resource=bought.resource
    )


def _authorization(bought: Purchase, to: bytes) -> dict[str, str]:
    assert bought.token is not None
    valid_before = int(time.time()) + bought.lifetime + 1  # exclusive
    return sign_authorization(
        *(bought.payer, bought.token, bought.network.network.chain_id, to, bought.amount),
        *(0, valid_before, secrets.token_bytes(32)),
    )


def _say_signed(bought: Purchase, nonce: str) -> None:
    say(f"payer {checksum(bought.payer.address)} signed {bought.amount} units, nonce {nonce}")


async def _approve(
    session: aiohttp.ClientSession, config: Config, bought: Purchase, timeout: int
) -> None:
    """Set the contract's allowance to the amount, and wait for the block. Raises JobFailed and
    ChainUnavailable.
    """
    assert bought.contract is not None
    network = bought.network.network
    chain = Chain(RPC(bought.network.rpc_urls, name=network.name, session=session))
    await expect_chain(chain, network)
    arguments = address_word(bought.contract) + uint_word(bought.amount)
    call = Call(bought.asset, _APPROVE + arguments)
    planned = await plan(chain, call, bought.payer.address, max_fee_per_gas=config.max_fee_per_gas)
    expect_money(planned, network)
    say(f"approving {checksum(bought.contract)} for {bought.amount}")
    signed = await send(chain, network.chain_id, bought.payer, planned)
    if await receipt(chain, signed.hash, timeout) is None:
        raise JobFailed(f"not mined within {timeout} s: {to_hex(signed.hash)}")


async def _post(
    session: aiohttp.ClientSession, target: str, path: str, request: dict[str, Any]
) -> dict[str, Any]:
    """Post a request and return the facilitator's reply. Raises JobFailed where there is none; the
    payment may have been settled all the same.
    """
    try:
        async with session.post(target + path, json=request, allow_redirects=False) as response:
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
    why = reply.get("invalidReason") or reply.get("errorReason") or reply.get("error")
    say(f"POST {path} -> {status}" + (f", {why!r}" if why else ""))
    return reply
