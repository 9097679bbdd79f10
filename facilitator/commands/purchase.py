"""What the command `pay` buys: who pays whom, how much and in which dialect, and the request that
says so.
"""

import argparse
import os
import secrets
import time
from typing import Any

from msgspec import Struct

from facilitator.commands.payer import (
    auth_params,
    request_body,
    sign_authorization,
    sign_payment,
    standard_body,
    standard_requirements,
)
from facilitator.commands.sending import say
from facilitator.config.environment import Environment
from facilitator.config.networks import Token
from facilitator.config.settings import Config, ConfigError, NetworkConfig
from facilitator.ethereum.addresses import checksum
from facilitator.ethereum.secp256k1 import Signer

KEY_VARIABLE = "PAYER_PRIVATE_KEY"
KEY_OPTION = "--key-file"
JEJU_RESOURCE = "/"
# Clients and servers of version 1 take nothing but a URL.
STANDARD_RESOURCE = "https://localhost/"


class Purchase(Struct, frozen=True, kw_only=True):
    """Who pays whom, where and how much (atomic units); the payer's repr hides its key.

    `x402_version` is the standard dialect's, None for Jeju's. `contract` is None only in the
    standard dialect, `token` only where nothing is signed under its domain.
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
    lifetime: int  # seconds that the payment stays good


def read_purchase(config: Config, options: argparse.Namespace) -> Purchase:
    """What the options and the settings say. Raises ConfigError where they do not say enough, or
    contradict each other.
    """
    version = options.x402_version
    _check(options)
    name = options.network or config.primary_network
    if name not in config.networks:
        raise ConfigError(f"{name} is not served with these settings")
    network = config.networks[name]
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


def _check(options: argparse.Namespace) -> None:
    """Which options do not go together."""
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


def signed_request(bought: Purchase) -> dict[str, Any]:
    """The request: the signed payment, and what its seller asks for."""
    return _jeju_body(bought) if bought.x402_version is None else _standard_body(bought)


def _jeju_body(bought: Purchase) -> dict[str, Any]:
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
