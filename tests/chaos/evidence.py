"""What is left when everything is over: the chain's logs and balances, and the journal's rows."""

import sqlite3
from collections import defaultdict
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from msgspec import Struct

from facilitator.commands.devnet import Devnet
from tests.chaos.payments import Payment
from tests.chaos.plan import LEAST, PAYERS, SIGNERS
from tests.support.chain import balance, settled_logs
from tests.support.x402_chain import authorizations_used, transfers
from tests.support.x402_service import nonce_of


class Row(Struct, frozen=True, kw_only=True):
    """A settlement of the journal with its transactions, as (state, account nonce, hashes)."""

    id: str
    state: str
    refusal: str | None
    told: bool
    transactions: tuple[tuple[str, int, tuple[str, ...]], ...]


class Evidence(Struct, frozen=True, kw_only=True):
    """`moved` holds the transactions by the payment's number, in which the chain's logs show it;
    `spent` what left each payer; `counts` the mined account nonces of each signer's address, and
    `nonces` those of the journal, with their states.
    """

    moved: dict[int, list[str]]
    spent: dict[int, int]
    rows: dict[int, Row]
    counts: dict[str, int]
    nonces: dict[str, dict[int, str]]


async def balances(devnet: Devnet) -> dict[int, int]:
    """Atomic units that each payer has."""
    return {index: await balance(devnet, devnet.accounts[index].address) for index in PAYERS}


async def gather(
    devnet: Devnet, journal: Path, payments: Iterable[Payment], before: dict[int, int]
) -> Evidence:
    after = await balances(devnet)
    signers = [devnet.accounts[index] for index in SIGNERS]
    rows, nonces = read_journal(journal)
    return Evidence(
        moved=await _moved(devnet, payments),
        spent={index: before[index] - after[index] for index in PAYERS},
        rows=rows,
        counts={each.address.hex(): await nonce_of(devnet, each) for each in signers},
        nonces=nonces,
    )


async def _moved(devnet: Devnet, payments: Iterable[Payment]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = defaultdict(list)
    settled = defaultdict(list)
    for log in await settled_logs(devnet):
        settled[log.resource].append(log)
    used = defaultdict(list)
    for use in await authorizations_used(devnet):
        used[use.authorizer, use.authorization_nonce].append(use.transaction_hash)
    paid = defaultdict(list)
    for transfer in await transfers(devnet):
        paid[transfer.transaction_hash].append(transfer)
    for payment in payments:
        order, payer = payment.order, devnet.accounts[payment.order.payer].address
        if order.kind in ("jeju", "gasless"):
            for log in settled[order.resource]:
                assert (log.payer, log.amount, log.token) == (payer, order.amount, devnet.usdc)
                found[order.number].append(log.transaction_hash)
        else:
            for transaction in used[payer, order.nonce]:
                wanted = (payer, devnet.seller.address, order.amount)
                seen = [(each.sender, each.recipient, each.value) for each in paid[transaction]]
                assert wanted in seen, (order, seen)
                found[order.number].append(transaction)
    return dict(found)


def read_journal(journal: Path) -> tuple[dict[int, Row], dict[str, dict[int, str]]]:
    """The settlements by the payment's number, which its amount tells; the account nonces."""
    with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as database:
        database.row_factory = sqlite3.Row
        hashes: dict[int, list[str]] = defaultdict(list)
        for attempt in database.execute("SELECT * FROM attempt ORDER BY signed_at"):
            hashes[attempt["transaction_id"]].append("0x" + attempt["hash"].hex())
        transactions: dict[int, Any] = {}
        nonces: dict[str, dict[int, str]] = defaultdict(dict)
        for each in database.execute('SELECT * FROM "transaction" ORDER BY id'):
            state, account_nonce = each["state"], each["account_nonce"]
            transactions[each["id"]] = (state, account_nonce, tuple(hashes[each["id"]]))
            nonces[each["signer"].hex()][account_nonce] = state
        carried: dict[str, list[Any]] = defaultdict(list)
        for each in database.execute("SELECT * FROM settlement_transaction"):
            carried[each["settlement_id"]].append(transactions[each["transaction_id"]])
        rows = {}
        for each in database.execute("SELECT * FROM settlement"):
            rows[_number(each["amount"])] = Row(
                id=each["id"],
                state=each["state"],
                refusal=each["refusal"],
                told=each["replied_success_at"] is not None,
                transactions=tuple(carried[each["id"]]),
            )
    return rows, dict(nonces)


def _number(amount: str) -> int:
    return int(amount) - LEAST


def unresolved(journal: Path) -> int:
    """Settlements and transactions of the journal that are not at their end."""
    with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as database:
        [(open_settlements,)] = database.execute(
            "SELECT count(*) FROM settlement WHERE state IN ('pending', 'reorged')"
        )
        [(pending,)] = database.execute(
            """SELECT count(*) FROM "transaction" WHERE state = 'pending'"""
        )
    return int(open_settlements) + int(pending)
