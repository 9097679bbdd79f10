"""The command `pay`: a payer and its seller in one, to try a facilitator out."""

import argparse
import json
import os
import sys
from typing import Any

import aiohttp

from facilitator.chain.answers import ChainUnavailable
from facilitator.chain.client import Chain
from facilitator.chain.rpc import RPC
from facilitator.commands.options import address, amount, line, url, whole_number
from facilitator.commands.purchase import (
    JEJU_RESOURCE,
    KEY_OPTION,
    KEY_VARIABLE,
    STANDARD_RESOURCE,
    Purchase,
    read_purchase,
    signed_request,
)
from facilitator.commands.sending import (
    JobFailed,
    expect_chain,
    expect_money,
    plan,
    receipt,
    say,
    send,
    transaction_name,
)
from facilitator.config.networks import NETWORKS
from facilitator.config.settings import Config, ConfigError, load_config
from facilitator.domain.strict_json import StrictJSONError, decode
from facilitator.ethereum.abi import address_word, selector, uint_word
from facilitator.ethereum.addresses import checksum
from facilitator.ethereum.transactions import Call

TIMEOUT = 120  # seconds, unless --timeout says otherwise; the service's own wait is 45
_APPROVE = selector("approve(address,uint256)")


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
    """Pay: 0 where the facilitator says yes, 1 where it does not, 2 for a wrong setting."""
    try:
        config = load_config(os.environ)
        bought = read_purchase(config, options)
        target = options.url or _default_url(config)
        timeout = aiohttp.ClientTimeout(total=options.timeout)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            if options.approve:
                await _approve(session, config, bought, options.timeout)
            request = signed_request(bought)
            reply = await _post(session, target, "/verify", request)
            done = reply.get("isValid") is True
            if done and not options.verify_only:
                path = "/settle/gasless" if bought.gasless else "/settle"
                reply = await _post(session, target, path, request)
                done = reply.get("success") is True
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (JobFailed, ChainUnavailable) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(reply, indent=2))
    return 0 if done else 1


def _default_url(config: Config) -> str:
    if config.port == 0:
        raise ConfigError("FACILITATOR_PORT is 0, so the service may be anywhere: give --url")
    return f"http://127.0.0.1:{config.port}"


async def _approve(
    session: aiohttp.ClientSession, config: Config, bought: Purchase, timeout: int
) -> None:
    """Let the contract take the amount, and wait until it may."""
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
        raise JobFailed(f"not mined within {timeout} s: {transaction_name(signed.hash)}")


async def _post(
    session: aiohttp.ClientSession, target: str, path: str, request: dict[str, Any]
) -> dict[str, Any]:
    """A facilitator's reply. Raises JobFailed where there is none; a payment may be settled then
    all the same.
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
