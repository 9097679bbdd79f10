"""What the oracle's payments are drawn from: accounts, wallets, a spent nonce, chance."""

import copy
import random
from collections.abc import Callable, Iterator
from typing import Any, Final

from eth_account import Account as Keys
from msgspec import Struct

from facilitator.commands.devnet import Account, Devnet
from tests.support.chain import load_artifact, unhex
from tests.support.x402 import Token, payload_of, usdc, v1_body, v2_body
from tests.support.x402_chain import (
    Behaviour,
    Counterfactual,
    counterfactual,
    delegate,
    deploy_rogue_wallet,
    deploy_wallet,
    pay,
)

Body = dict[str, Any]
Path = tuple[str, ...]
# Makes a body when it is about to be sent: a payment is good for a minute only.
Make = Callable[[], Body]
Cases = Iterator[tuple[str, Make]]

SEED: Final = 402
BALANCE: Final = 10**12  # atomic units that each of the payers has
ABSENT: Final = object()  # in place of a value: the member is left out


class Market(Struct, frozen=True):
    """`poor` has no USDC; `used` is an authorization nonce that the first payer has spent. The
    wallets and the undeployed one are the first payer's; `delegating` accounts sign for themselves.
    """

    devnet: Devnet
    token: Token
    payers: tuple[Account, ...]
    poor: Account
    used: str
    rng: random.Random
    wallet: bytes
    rogues: dict[str, bytes]
    undeployed: Counterfactual
    unlisted: Counterfactual
    delegating: dict[str, Account]

    def good(self, version: int, **changes: Any) -> Body:
        """A payment by any payer of any amount from 1000 to 10^7, but for `changes` (which
        `tests.support.x402` explains).
        """
        payer = changes.pop("payer", None) or self.rng.choice(self.payers)
        asked = {
            amount_name(version): str(self.rng.randrange(1_000, 10**7)),
            **changes.pop("requirements", {}),
        }
        body = v1_body if version == 1 else v2_body
        token = changes.pop("token", self.token)
        return body(self.devnet, payer=payer, token=token, requirements=asked, **changes)


async def open_market(devnet: Devnet, listed: bytes, unlisted: bytes) -> Market:
    """Deploy and fund what the cases need; both factories are deployed, one of them allowed."""
    payers = tuple(devnet.accounts[index] for index in (2, 4, 5, 6))
    asked, silent = devnet.accounts[7], devnet.accounts[8]
    await delegate(devnet, asked, await devnet.deploy(load_artifact("Delegate7702")))
    await delegate(devnet, silent, await devnet.deploy(load_artifact("SilentDelegate7702")))
    spent = v2_body(devnet, payer=payers[0], requirements={"amount": "1"})
    await pay(devnet, payload_of(spent))
    await devnet.mint(payers[0].address, 1)
    key = bytes([7]) * 32
    return Market(
        devnet=devnet,
        token=usdc(devnet),
        payers=payers,
        poor=Account("payer", unhex(Keys.from_key(key).address), key),
        used=payload_of(spent)["authorization"]["nonce"],
        rng=random.Random(SEED),  # noqa: S311 - drawing payments, not keys
        wallet=await deploy_wallet(devnet, payers[0]),
        rogues={
            behaviour.name.lower().replace("_", " "): await deploy_rogue_wallet(devnet, behaviour)
            for behaviour in Behaviour
        },
        undeployed=await counterfactual(devnet, listed, payers[0]),
        unlisted=await counterfactual(devnet, unlisted, payers[0]),
        delegating={"asks": asked, "is silent": silent},
    )


def amount_name(version: int) -> str:
    return "maxAmountRequired" if version == 1 else "amount"


def asked_at(version: int, name: str) -> tuple[Path, ...]:
    """Where a body says what is asked: version 2 says it again in the payment."""
    once: Path = ("paymentRequirements", name)
    return (once,) if version == 1 else (once, ("paymentPayload", "accepted", name))


def edited(body: Body, path: Path, value: object) -> Body:
    """The body with another value at `path`, or without the member."""
    changed = copy.deepcopy(body)
    holder = at(changed, path[:-1])
    if value is ABSENT:
        del holder[path[-1]]
    else:
        holder[path[-1]] = value
    return changed


def rewritten(body: Body, places: tuple[Path, ...], rewrite: Callable[[Any], object]) -> Body:
    """The body with what `rewrite` makes of the values at these places."""
    for place in places:
        body = edited(body, place, rewrite(at(body, place)))
    return body


def at(body: Body, path: Path) -> Any:
    value: Any = body
    for name in path:
        value = value[name]
    return value


def paths(value: object, path: Path = ()) -> Iterator[Path]:
    """Every member of a body, the objects as well as what is in them; outputSchema is anything."""
    if path:
        yield path
    if isinstance(value, dict) and path[-1:] != ("outputSchema",):
        for name, member in value.items():
            yield from paths(member, (*path, name))
