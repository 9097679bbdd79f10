"""The steps of `make demo`: each is done for real, checked, and compared with the chain."""

import secrets
import time
from typing import Any

import aiohttp

from examples.demo.official_client import official_payment
from facilitator.commands.devnet import Account, Devnet
from facilitator.commands.devnet.chain import DEFAULT_FEE_BPS
from facilitator.commands.payer import (
    auth_params,
    request_body,
    sign_authorization,
    sign_payment,
    standard_body,
    standard_requirements,
)
from facilitator.config.networks import NETWORKS
from facilitator.dialects.jeju.encode import human
from facilitator.ethereum.abi import MAX_UINT256, address_word, selector, uint_word
from facilitator.ethereum.addresses import checksum
from facilitator.ethereum.secp256k1 import Signer

RESOURCE = "https://api.example/report"
PRICE = 1_000_000  # atomic units of USDC: 1 USDC
LIFETIME = 300  # seconds that an authorization of the token holds

Reply = dict[str, Any]


class DemoFailed(Exception):
    """A step did not hold; the text says which and how."""


def expect(held: object, otherwise: str) -> None:
    """End the demo unless the step held."""
    if not held:
        raise DemoFailed(otherwise)


def say(text: str = "") -> None:
    """Print a line of the demo."""
    print(text, flush=True)


class Cast:
    """Who takes part: three payers, of whom only the first gives the contract an allowance, the
    seller, and the recipient of the fees. `session` speaks to the service.
    """

    def __init__(self, devnet: Devnet, session: aiohttp.ClientSession) -> None:
        self.devnet = devnet
        self.session = session
        self.second_payer = devnet.accounts[4]
        self.third_payer = devnet.accounts[6]
        self.token = NETWORKS[devnet.network_name].usdc_at(devnet.usdc)
        self.people = {
            "payer": devnet.payer,
            "2nd payer": self.second_payer,
            "3rd payer": self.third_payer,
            "seller": devnet.seller,
            "fees": devnet.fee_recipient,
        }

    def payment(self, signer: Account) -> Reply:
        """Return a payment header signed by `signer`: PRICE to the seller."""
        devnet = self.devnet
        return sign_payment(
            Signer(signer.key),
            chain_id=devnet.chain_id,
            contract=devnet.contract,
            network=devnet.network_name,
            asset=devnet.usdc,
            pay_to=devnet.seller.address,
            amount=PRICE,
            resource="/api/report",
            timestamp=int(time.time()),
        )

    def authorization(self, signer: Account, to: bytes) -> dict[str, str]:
        """Return an authorization of the token signed by `signer`: PRICE to `to`."""
        return sign_authorization(
            *(Signer(signer.key), self.token, self.devnet.chain_id, to, PRICE),
            *(0, int(time.time()) + LIFETIME, secrets.token_bytes(32)),
        )

    async def post(self, path: str, body: Reply) -> Reply:
        """Post a request and return the reply. Raises DemoFailed unless the status is 200."""
        async with self.session.post(path, json=body) as response:
            reply: Reply = await response.json()
            expect(response.status == 200, f"POST {path}: {response.status} {reply}")
            return reply

    async def balances(self) -> dict[str, int]:
        """Return everybody's atomic units of USDC, from the chain."""
        balance = selector("balanceOf(address)")
        return {
            name: await self._read(balance + address_word(account.address))
            for name, account in self.people.items()
        }

    async def allowance(self, owner: Account) -> int:
        """Return how many atomic units the contract may take from `owner`."""
        arguments = address_word(owner.address) + address_word(self.devnet.contract)
        return await self._read(selector("allowance(address,address)") + arguments)

    async def sent(self, account: Account) -> int:
        """Return how many transactions of the account are mined or wait to be."""
        address = "0x" + account.address.hex()
        return int(str(await self.devnet.rpc("eth_getTransactionCount", address, "pending")), 16)

    async def _read(self, call: bytes) -> int:
        query = {"to": "0x" + self.devnet.usdc.hex(), "data": "0x" + call.hex()}
        return int(str(await self.devnet.rpc("eth_call", query, "latest")), 16)


async def tell(devnet: Devnet, session: aiohttp.ClientSession) -> None:
    """Do and explain every step. Raises DemoFailed at the first that does not hold."""
    cast = Cast(devnet, session)
    before = await cast.balances()
    body, first = await _pay_with_allowance(cast)
    await _ask_again(cast, body, first)
    await _pay_gasless(cast)
    await _pay_in_the_standard_dialect(cast)
    await _forge(cast)
    await _compare(cast, before)
    await _show_stats(cast)


async def _pay_with_allowance(cast: Cast) -> tuple[Reply, Reply]:
    """Return the request that was settled, and the reply."""
    devnet = cast.devnet
    approve = selector("approve(address,uint256)") + address_word(devnet.contract)
    await devnet.transact(devnet.payer, devnet.usdc, approve + uint_word(MAX_UINT256))
    say("1. The payer lets the contract take USDC, once (ERC-20 approve), then signs a payment")
    say(f"   of {human(PRICE, 6)} USDC to the seller: no transaction, no gas.")
    body = request_body(cast.payment(devnet.payer))

    reply = await cast.post("/verify", body)
    expect(reply["isValid"], f"/verify refused: {reply}")
    say("2. The seller asks: would it settle?")
    say(f"   POST /verify -> isValid true, payer {reply['payer']}")

    reply = await cast.post("/settle", body)
    expect(reply["success"], f"/settle failed: {reply}")
    say("3. The seller asks to settle it. The facilitator pays the gas and waits for the block.")
    _say_settled("/settle", reply)
    return body, reply


def _say_settled(path: str, reply: Reply) -> None:
    fee, net = reply["fee"]["human"], reply["net"]["human"]
    say(f"   POST {path} -> success true, fee {fee}, net {net}")
    say(f"   transaction {reply['txHash']}")


async def _ask_again(cast: Cast, body: Reply, first: Reply) -> None:
    before = await cast.balances()
    again = await cast.post("/settle", body)
    expect(not again["success"], f"the replay was not refused: {again}")
    expect(again["txHash"] == first["txHash"], f"the replay names another transaction: {again}")
    expect(await cast.balances() == before, "the replay moved money")
    say("4. The same payment again is refused, and moves nothing:")
    say(f"   POST /settle -> success false, {again['error']!r}")


async def _pay_gasless(cast: Cast) -> None:
    devnet, payer = cast.devnet, cast.second_payer
    expect(await cast.allowance(payer) == 0, "the second payer has an allowance")
    body = {
        **request_body(cast.payment(payer)),
        "authParams": auth_params(cast.authorization(payer, devnet.contract)),
    }
    reply = await cast.post("/settle/gasless", body)
    expect(reply["success"], f"/settle/gasless failed: {reply}")
    expect(await cast.sent(payer) == 0, "the second payer has sent transactions")
    say("5. A second payer has no allowance, no transaction ever sent: beside the payment it signs")
    say("   an authorization of the token to the contract (EIP-3009).")
    _say_settled("/settle/gasless", reply)


async def _pay_in_the_standard_dialect(cast: Cast) -> None:
    """Pay in version 2, as an official client does: to the seller, who gets all of it."""
    devnet, payer = cast.devnet, cast.third_payer
    requirements = standard_requirements(
        version=2,
        network=NETWORKS[devnet.network_name],
        token=cast.token,
        pay_to=devnet.seller.address,
        amount=PRICE,
        resource=RESOURCE,
        lifetime=LIFETIME,
    )
    authorization = cast.authorization(payer, devnet.seller.address)
    body = standard_body(requirements, authorization, version=2, resource=RESOURCE)
    say("6. A third payer speaks the standard dialect, version 2: it signs an authorization of the")
    say("   token to the seller, who gets all of it. No contract of ours, no fee, no gas.")
    payment = await official_payment(payer.key, requirements, RESOURCE)
    if payment is None:
        say("   Its client would be the official one, the Python package x402, which is not")
        say("   installed here: the demo signs in its stead.")
    else:
        say("   Its client is the official one, the Python package x402.")
        body["paymentPayload"] = payment
    before = await cast.balances()
    reply = await cast.post("/verify", body)
    expect(reply["isValid"], f"/verify refused: {reply}")
    expect(await cast.balances() == before, "/verify moved money")
    say(f"   POST /verify -> isValid true, payer {reply['payer']}")
    reply = await cast.post("/settle", body)
    expect(reply["success"], f"/settle failed: {reply}")
    expect(await cast.sent(payer) == 0, "the third payer has sent transactions")
    moved = {**before, "3rd payer": before["3rd payer"] - PRICE, "seller": before["seller"] + PRICE}
    expect(await cast.balances() == moved, "the payment moved something else than the price")
    say("   POST /settle -> success true")
    say(f"   transaction {reply['transaction']}")


async def _forge(cast: Cast) -> None:
    before, sent = await cast.balances(), await cast.sent(cast.devnet.signer)
    thief = cast.devnet.accounts[5]
    forged = {**cast.payment(thief), "payer": checksum(cast.devnet.payer.address)}
    reply = await cast.post("/settle", request_body(forged))
    expect(not reply["success"] and reply["txHash"] is None, f"the forgery got through: {reply}")
    expect(await cast.balances() == before, "the forgery moved money")
    expect(await cast.sent(cast.devnet.signer) == sent, "the forgery cost gas")
    say("7. Somebody signs a payment in the first payer's name. It is refused before any gas is")
    say("   spent:")
    say(f"   POST /settle -> success false, {reply['error']!r}")


async def _compare(cast: Cast, before: dict[str, int]) -> None:
    after = await cast.balances()
    fee = PRICE * DEFAULT_FEE_BPS // 10_000  # of each payment through the contract
    expected = {
        "payer": -PRICE,
        "2nd payer": -PRICE,
        "3rd payer": -PRICE,
        "seller": 2 * (PRICE - fee) + PRICE,
        "fees": 2 * fee,
    }
    moved = {name: after[name] - before[name] for name in cast.people}
    expect(moved == expected, f"balances moved by {moved}")
    say("8. The chain agrees:")
    say(f"   {'USDC of':10}{'before':>16}{'after':>16}")
    for name in cast.people:
        say(f"   {name:10}{human(before[name], 6):>16}{human(after[name], 6):>16}")


async def _show_stats(cast: Cast) -> None:
    async with cast.session.get("/stats") as response:
        stats: Reply = await response.json()
    settlements, volume = stats["totalSettlements"], stats["totalVolumeUSD"]
    # 18 decimals, whatever the token has
    right = (settlements, volume) == ("2", str(2 * PRICE * 10**12))
    expect(response.status == 200 and right, f"GET /stats: {response.status} {stats}")
    say("9. So do the contract's totals:")
    say(
        f"   GET /stats -> settlements {settlements}, volume {human(int(volume), 18)} USD,"
        f" fee {stats['protocolFeeBps']} bps"
    )
