"""Many payments of several payers at once, and what they came to on chain."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

from facilitator.commands.devnet import Account, Devnet, DevnetOptions
from facilitator.domain.nonces import MAX_IN_FLIGHT
from tests.support.chain import (
    approve,
    devnet_authorization,
    devnet_payment,
    settled_logs,
)
from tests.support.service import Service, request
from tests.support.x402 import v1_body, v2_body
from tests.support.x402_chain import authorizations_used
from tests.support.x402_service import stop_mining

QUEUED = 8

PAYERS = 32
# A payer's money is looked at beside all that he has pending, so a burst comes from several.
OPTIONS = DevnetOptions(port=0, block_time=1, accounts=10 + PAYERS)

Post = tuple[str, dict[str, Any]]  # a path and what is posted there


def payers(devnet: Devnet) -> Sequence[Account]:
    return devnet.accounts[10:]


async def approve_all(devnet: Devnet) -> None:
    """Let the contract take every payer's USDC."""
    await asyncio.gather(*(approve(devnet, payer) for payer in payers(devnet)))


def jeju_posts(devnet: Devnet, count: int) -> list[Post]:
    """Every second one is gasless."""
    found: list[Post] = []
    for n in range(count):
        payer = payers(devnet)[n % PAYERS]
        body = request(devnet_payment(devnet, payer=payer))
        if n % 2:
            body["authParams"] = devnet_authorization(devnet, payer=payer)
        found.append(("/settle/gasless" if n % 2 else "/settle", body))
    return found


def x402_posts(devnet: Devnet, count: int) -> list[Post]:
    """Every second one is of version 1."""
    make = (v2_body, v1_body)
    return [
        ("/settle", make[n % 2](devnet, payer=payers(devnet)[n % PAYERS])) for n in range(count)
    ]


async def post_all(service: Service, posts: Sequence[Post]) -> list[asyncio.Task[Any]]:
    return [asyncio.create_task(service.post(path, body)) for path, body in posts]


async def replies_of(posting: Sequence[asyncio.Task[Any]]) -> list[dict[str, Any]]:
    """The replies, each a 200."""
    answers = await asyncio.gather(*posting)
    assert {status for status, _ in answers} == {200}, answers
    return [reply for _, reply in answers]


async def jeju_proofs(devnet: Devnet) -> list[str]:
    """The transaction of every settlement, one entry each."""
    return [log.transaction_hash for log in await settled_logs(devnet)]


async def x402_proofs(devnet: Devnet) -> list[str]:
    """The same for authorizations that were used."""
    return [log.transaction_hash for log in await authorizations_used(devnet)]


async def gas_used(devnet: Devnet, transactions: set[str]) -> int:
    """What these transactions used together."""
    found: list[Any] = await asyncio.gather(
        *(devnet.rpc("eth_getTransactionReceipt", one) for one in transactions)
    )
    return sum(int(receipt["gasUsed"], 16) for receipt in found)


async def saturate(service: Service, devnet: Devnet) -> list[asyncio.Task[Any]]:
    """Payments that take all places of the signer, on a chain that stands still."""
    await stop_mining(devnet)
    posting = await post_all(service, x402_posts(devnet, MAX_IN_FLIGHT))
    await service.wait_for("settlement_submitted", MAX_IN_FLIGHT)
    return posting


async def queue_up(service: Service, bodies: list[dict[str, Any]]) -> list[asyncio.Task[Any]]:
    """Have them wait for a place, in any order."""
    posting = [asyncio.create_task(service.post("/settle", body)) for body in bodies]
    await asyncio.sleep(1)  # no event says that one waits
    return posting


def transactions_of(service: Service) -> Counter[str]:
    """How many settlements each transaction was signed for."""
    return Counter(line["transaction"] for line in service.logged("settlement_submitted"))
