"""The official packages, unmodified, as sellers and as buyers: they pay through the service.

Each seller is a process that uses the service as its facilitator, each buyer one that pays it, on a
chain of their own. Whether money moved is read from that chain.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from facilitator.commands.devnet import Devnet, DevnetOptions
from facilitator.config.networks import NETWORKS
from facilitator.ethereum.addresses import checksum
from tests.support.chain import balance
from tests.support.marketplace import (
    PRICE,
    Declined,
    Tap,
    Terms,
    buy,
    decode,
    encode,
    seller,
    tapped,
)
from tests.support.service import Service, serve
from tests.support.x402 import usdc

pytestmark = pytest.mark.anyio


class Pairing(Struct, frozen=True):
    """Who pays whom, on which of the networks, and which version they speak."""

    buyer: str
    seller: str
    network: str
    version: int

    @property
    def network_id(self) -> str:
        """The network as this version names it."""
        network = NETWORKS[self.network]
        return network.name if self.version == 1 else network.caip2


PAIRINGS = [
    Pairing("buyer_fetch.mjs", "seller_express.mjs", "jeju", 2),
    Pairing("client_v1.mjs", "server_v1.mjs", "base-sepolia", 1),
    Pairing("buyer_httpx.py", "seller_fastapi.py", "jeju", 2),
    Pairing("buyer_fetch.mjs", "seller_fastapi.py", "base-sepolia", 2),
    Pairing("buyer_httpx.py", "seller_express.mjs", "base-sepolia", 2),
    Pairing("buyer_httpx.py", "server_v1.mjs", "base-sepolia", 1),
    Pairing("buyer_fetch.mjs", "seller_plain.py", "jeju", 2),
]
# Each seller once, and each buyer.
LIARS = [*PAIRINGS[:3], PAIRINGS[-1]]
# The sellers that ask again while a settlement is pending: all of version 2.
LATE = [pairing for pairing in LIARS if pairing.version == 2]
WAIT = 90.0  # seconds

OTHER_TOKEN = "0x1111111111111111111111111111111111111111"
OTHER_PAYEE = "0x2222222222222222222222222222222222222222"


def pair_id(pairing: Pairing) -> str:
    return f"{pairing.buyer.split('.')[0]}-pays-{pairing.seller.split('.')[0]}"


@pytest.fixture
def devnet_options(pairing: Pairing) -> DevnetOptions:
    return DevnetOptions(
        port=0,
        block_time=None,
        network_name=pairing.network,
        chain_id=NETWORKS[pairing.network].chain_id,
    )


class Market:
    """A seller behind a tap, and what its buyers need to know."""

    def __init__(self, devnet: Devnet, pairing: Pairing, service: Service, tap: Tap) -> None:
        self.devnet = devnet
        self.pairing = pairing
        self.service = service
        self.tap = tap

    async def buy(self, **changes: str) -> dict[str, Any]:
        environment = {
            "PAYER_PRIVATE_KEY": "0x" + self.devnet.payer.key.hex(),
            "NETWORK": self.pairing.network_id,
            "ASSET": checksum(self.devnet.usdc),
        }
        return await buy(self.pairing.buyer, self.tap.url + "/report", {**environment, **changes})

    async def money(self) -> tuple[int, int, int]:
        """USDC of payer and seller, and how many transactions the service's signer has sent."""
        signer = "0x" + self.devnet.signer.address.hex()
        sent = await self.devnet.rpc("eth_getTransactionCount", signer, "pending")
        return (
            await balance(self.devnet, self.devnet.payer.address),
            await balance(self.devnet, self.devnet.seller.address),
            int(str(sent), 16),
        )

    def settled(self) -> int:
        """How many requests to settle the service has answered."""
        return sum(line["route"] == "/settle" for line in self.service.logged("request"))


@asynccontextmanager
async def market(
    devnet: Devnet, pairing: Pairing, folder: Path, **changes: str
) -> AsyncIterator[Market]:
    async with serve(devnet, folder, **changes) as service:
        environment = {
            "FACILITATOR_URL": service.url,
            "NETWORK": pairing.network_id,
            "PAY_TO": checksum(devnet.seller.address),
            "ASSET": checksum(devnet.usdc),
            "ASSET_NAME": usdc(devnet).name,
        }
        async with seller(pairing.seller, environment) as url, tapped(url) as tap:
            yield Market(devnet, pairing, service, tap)


@pytest.mark.parametrize("pairing", PAIRINGS, ids=pair_id)
async def test_a_buyer_pays_a_seller_once(pairing: Pairing, devnet: Devnet, tmp_path: Path) -> None:
    """Unpaid is 402 and its price; paid is 200, and the price has moved; the same payment again is
    402, and moves nothing.
    """
    async with market(devnet, pairing, tmp_path) as at:
        # sellers start from a list that names what no official package knows
        _, supported = await at.service.get("/supported")
        assert jeju_upto(pairing.network) in supported["kinds"]

        before = await at.money()
        unpaid = await at.tap.get("/report")
        assert unpaid.status == 402
        assert unpaid.terms["network"] == pairing.network_id
        assert unpaid.terms["maxAmountRequired" if pairing.version == 1 else "amount"] == str(PRICE)
        assert await at.money() == before

        bought = await at.buy()
        assert bought["status"] == 200, bought
        assert bought["body"].replace(" ", "") == '{"report":"sunny"}'
        payer, payee, sent = before
        paid = (payer - PRICE, payee + PRICE, sent + 1)
        assert await at.money() == paid
        receipt = bought["receipt"]
        assert (receipt["success"], receipt["network"]) == (True, pairing.network_id)
        assert receipt["payer"] == checksum(devnet.payer.address)
        mined: Any = await devnet.rpc("eth_getTransactionReceipt", receipt["transaction"])
        assert (mined["status"], mined["to"]) == ("0x1", "0x" + devnet.usdc.hex())

        [payment] = at.tap.payments
        assert decode(payment)["x402Version"] == pairing.version
        again = await at.tap.get("/report", payment)
        assert (again.status, b"sunny" in again.body) == (402, False)
        assert await at.money() == paid


def jeju_upto(network: str) -> dict[str, Any]:
    extra = {"dialect": "jeju"}
    return {"x402Version": 1, "scheme": "upto", "network": network, "extra": extra}


def other_amount(terms: Terms) -> Terms:
    name = "amount" if "amount" in terms else "maxAmountRequired"
    return {**terms, name: "1"}


def other_recipient(terms: Terms) -> Terms:
    return {**terms, "payTo": OTHER_PAYEE}


def other_asset(terms: Terms) -> Terms:
    return {**terms, "asset": OTHER_TOKEN}


def other_chain(terms: Terms) -> Terms:
    # "avalanche" and not "base": buyers of version 1 look for base first
    return {**terms, "network": "eip155:43114" if ":" in terms["network"] else "avalanche"}


# What the buyer is made to sign for, and the reasons that versions 1 and 2 give for refusing it.
LIES = [
    (
        other_amount,
        "invalid_exact_evm_authorization_value",
        "invalid_exact_evm_payload_authorization_value_mismatch",
    ),
    (
        other_recipient,
        "invalid_exact_evm_recipient_mismatch",
        "invalid_exact_evm_recipient_mismatch",
    ),
    (other_asset, "invalid_exact_evm_signature", "invalid_exact_evm_signature"),
    (other_chain, "invalid_exact_evm_signature", "invalid_exact_evm_signature"),
]


@pytest.mark.parametrize("pairing", LIARS, ids=pair_id)
async def test_a_payment_for_something_else_is_refused(
    pairing: Pairing, devnet: Devnet, tmp_path: Path
) -> None:
    """A payment that was signed for another amount, recipient, asset or chain, and is presented as
    one for what the seller asks: 402 with the reason, and nothing moves.
    """
    async with market(devnet, pairing, tmp_path) as at:
        before = await at.money()
        at.tap.holding = True
        for lie, *reasons in LIES:
            payment = await signed_for(at, lie)
            answer = await at.tap.get("/report", payment)
            assert (lie.__name__, answer.status) == (lie.__name__, 402)
            assert (lie.__name__, answer.error) == (lie.__name__, reasons[pairing.version - 1])
        assert await at.money() == before
        # and it was for the lie, not for the way that the payments were made
        payment = await signed_for(at, lambda terms: terms)
        assert (await at.tap.get("/report", payment)).status == 200
        assert (await at.money())[1] == before[1] + PRICE


async def signed_for(at: Market, lie: Callable[[Terms], Terms]) -> str:
    """A payment header for the changed terms that claims to be for the seller's own."""
    asked = (await at.tap.get("/report")).terms
    at.tap.offer = lie
    offered = lie(asked)
    await at.buy(NETWORK=offered["network"], ASSET=offered["asset"])
    payment = decode(at.tap.payments.pop())
    claimed = {"accepted": asked} if at.pairing.version == 2 else {"network": asked["network"]}
    return encode({**payment, **claimed})


@pytest.mark.parametrize("pairing", [PAIRINGS[0], PAIRINGS[2]], ids=pair_id)
async def test_a_buyer_signs_for_no_token_that_it_does_not_know(
    pairing: Pairing, devnet: Devnet, tmp_path: Path
) -> None:
    """Who pays on Jeju has to name the token: the clients know none there."""
    async with market(devnet, pairing, tmp_path) as at:
        before = await at.money()
        with pytest.raises(Declined, match=r"(?i)spend.?controls"):
            await at.buy(ASSET=OTHER_TOKEN)
        assert (at.tap.payments, await at.money()) == ([], before)


@pytest.mark.parametrize("pairing", LATE, ids=pair_id)
async def test_a_block_that_is_late_costs_the_buyer_nothing(
    pairing: Pairing, devnet: Devnet, tmp_path: Path
) -> None:
    """While nothing is mined the seller hears `settlement_pending`, and asks again; the payment is
    sent once, and the buyer gets what it paid for.
    """
    async with market(devnet, pairing, tmp_path, SETTLE_TIMEOUT_SECONDS="2") as at:
        payer, payee, sent = await at.money()
        await devnet.rpc("evm_setAutomine", False)
        buying = asyncio.create_task(at.buy())
        async with asyncio.timeout(WAIT):
            while not at.settled():  # noqa: ASYNC110 - another process logs it
                await asyncio.sleep(0.02)
        await devnet.rpc("evm_mine")
        await devnet.rpc("evm_setAutomine", True)
        bought = await buying
        assert (bought["status"], bought["receipt"]["success"]) == (200, True), bought
        assert at.settled() >= 2
        assert await at.money() == (payer - PRICE, payee + PRICE, sent + 1)
