"""What the journal's tests put into it: payments, and transactions that real keys sign."""

import secrets
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from facilitator.domain.payment import Proof, Reason, Refusal
from facilitator.domain.schemes import AnyPayment, scheme_of
from facilitator.domain.schemes.jeju import JejuPayment, TokenAuthorization, allowed_calls
from facilitator.domain.settlement import (
    Attempt,
    Settlement,
    SettlementState,
    Transaction,
    TransactionKind,
)
from facilitator.ethereum.abi import Call
from facilitator.ethereum.fees import GWEI, Fees
from facilitator.ethereum.secp256k1 import Signer
from facilitator.ethereum.transactions import TransactionBuilder
from facilitator.journal.store import (
    BudgetSpent,
    Claimed,
    NewSettlement,
    NewTransaction,
    SettlementChange,
    Store,
)

CHAIN_ID = 420691
OTHER_CHAIN_ID = 8453
CONTRACT = bytes.fromhex("c0" * 20)
ASSET = bytes.fromhex("a5" * 20)
PAYER = bytes.fromhex("9a" * 20)
SIGNERS = tuple(Signer(bytes((number,)) * 32) for number in (1, 2, 3))
ALICE, BOB, CAROL = (signer.address for signer in SIGNERS)
PLENTY = 2**256 - 1
NOW = 1_800_000_000_000
LEASE = 60_000

REFUSAL = Refusal(Reason.TRANSACTION_REVERTED, "found", "wanted")


def payment(
    *,
    nonce: str | None = None,
    amount: int = 1_000_000,
    payer: bytes = PAYER,
    asset: bytes = ASSET,
    chain_id: int = CHAIN_ID,
    resource: str = "/api/report",
    token_nonce: bytes | None = None,
) -> JejuPayment:
    """A payment; by default of a fresh nonce. Gasless where it has a token nonce."""
    pull = None
    if token_nonce is not None:
        pull = TokenAuthorization(
            valid_after=0,
            valid_before=PLENTY,
            authorization_nonce=token_nonce,
            signature=b"\x02" * 65,
        )
    return JejuPayment(
        chain_id=chain_id,
        payer=payer,
        asset=asset,
        pay_to=bytes.fromhex("b0" * 20),
        amount=amount,
        valid_from=1_700_000_000,
        deadline=1_700_000_300,
        signature=b"\x01" * 64 + b"\x1b",
        contract=CONTRACT,
        scheme="exact",
        network="jeju",
        resource=resource,
        authorization_nonce=secrets.token_hex(16) if nonce is None else nonce,
        timestamp=1_700_000_000,
        token_authorization=pull,
    )


def settlement_of(
    paid: AnyPayment,
    *,
    key: str | None = None,
    second_key: str | None = None,
    digest: bytes | None = None,
    available: int = PLENTY,
    waiter: str = "waiter",
    waiter_until: int = NOW + LEASE,
    tenant: str = "",
    idempotency_key: str | None = None,
    body_digest: bytes | None = None,
) -> NewSettlement:
    """A payment to take on, under its own keys unless others are given."""
    own_key, own_second_key = scheme_of(paid).payment_keys(paid)
    return NewSettlement(
        key=own_key if key is None else key,
        second_key=own_second_key if second_key is None else second_key,
        request_digest=scheme_of(paid).request_digest(paid) if digest is None else digest,
        dialect="jeju",
        payment=paid,
        available=available,
        waiter=waiter,
        waiter_until=waiter_until,
        tenant=tenant,
        idempotency_key=idempotency_key,
        body_digest=body_digest,
        traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    )


def signing(
    signer: Signer, call: Call, *, chain_id: int = CHAIN_ID, fees: Fees | None = None
) -> Callable[[int], Attempt]:
    """What signs the call once the account nonce is known."""
    builder = TransactionBuilder(chain_id, allowed_calls(CONTRACT))
    fees = Fees(2 * GWEI, GWEI) if fees is None else fees

    def sign(account_nonce: int) -> Attempt:
        signed = builder.sign(
            signer, account_nonce=account_nonce, call=call, gas_limit=200_000, fees=fees
        )
        return Attempt(hash=signed.hash, raw=signed.raw, fees=fees, signed_at=NOW)

    return sign


def transaction_of(
    paid: AnyPayment,
    *,
    signer: Signer = SIGNERS[0],
    floor: int = 0,
    sign: Callable[[int], Attempt] | None = None,
) -> NewTransaction:
    """The transaction that settles the payment."""
    call = scheme_of(paid).settlement_call(paid)
    return NewTransaction(
        chain_id=paid.chain_id,
        signer=signer.address,
        nonce_floor=floor,
        kind=TransactionKind.SETTLE,
        call=call,
        gas_limit=200_000,
        sign=signing(signer, call, chain_id=paid.chain_id) if sign is None else sign,
    )


def filler(
    *, signer: Signer = SIGNERS[0], floor: int = 0, chain_id: int = CHAIN_ID
) -> NewTransaction:
    """A gap filler: nothing to oneself."""
    call = Call(signer.address, b"")
    return NewTransaction(
        chain_id=chain_id,
        signer=signer.address,
        nonce_floor=floor,
        kind=TransactionKind.FILL,
        call=call,
        gas_limit=21_000,
        sign=signing(signer, call, chain_id=chain_id),
    )


def proof(seed: int = 0, log_index: int = 3, fee: int = PLENTY) -> Proof:
    """A log; the same for the same arguments."""
    return Proof(
        transaction_hash=seed.to_bytes(32),
        log_index=log_index,
        block_number=17,
        reference=b"\x07" * 32,
        fee=fee,
    )


def change(
    settlement: Settlement, state: SettlementState, *, seen: Proof | None = None
) -> SettlementChange:
    """To that state, with a proof or a refusal where that state has one."""
    confirmed = state is SettlementState.CONFIRMED
    refused = state in (SettlementState.FAILED, SettlementState.LOST)
    own = proof(int.from_bytes(bytes.fromhex(settlement.id)))
    return SettlementChange(
        id=settlement.id,
        version=settlement.version,
        state=state,
        proof=(seen or own) if confirmed else None,
        refusal=REFUSAL if refused else None,
    )


async def claimed(store: Store, paid: JejuPayment | None = None) -> Claimed:
    """A payment taken on without further ado."""
    paid = payment() if paid is None else paid
    result = await store.claim(settlement_of(paid), transaction_of(paid), NOW)
    assert isinstance(result, Claimed)
    return result


async def gas_spent(store: Store, chain_id: int, signer: bytes, now: int) -> int:
    """What the signer's budget of that day has gone to, in wei: nothing more fits into none."""
    paid = payment()
    new = replace(
        transaction_of(paid), chain_id=chain_id, signer=signer, gas_budget=-1, sign=no_signature
    )
    refused = await store.claim(settlement_of(paid), new, now)
    assert isinstance(refused, BudgetSpent)
    return refused.spent


async def moved(store: Store, settlement: Settlement, state: SettlementState) -> Settlement:
    """The settlement in that state."""
    (after,) = await store.record([], [change(settlement, state)], NOW + 1)
    assert after.state is state
    return after


class SignerBroke(Exception):
    pass


def no_signature(account_nonce: int) -> Attempt:
    raise SignerBroke(account_nonce)


async def next_nonce(store: Store, chain_id: int = CHAIN_ID, signer: bytes = ALICE) -> int:
    return await store.raise_nonce_floor(chain_id, signer, 0)


async def filled(store: Store, new: NewTransaction | None = None) -> Transaction:
    """A transaction that carries nothing, at the next account nonce."""
    new = filler() if new is None else new
    account_nonce = await store.raise_nonce_floor(new.chain_id, new.signer, new.nonce_floor)
    result = await store.fill(new, account_nonce, NOW)
    assert result is not None
    return result


async def everything(store: Store, *keys: str) -> object:
    """All that the journal would say, to see that nothing has changed."""
    return (
        await store.open_work(CHAIN_ID),
        await store.watched(CHAIN_ID, 0),
        await store.in_flight(CHAIN_ID),
        [await next_nonce(store, CHAIN_ID, signer.address) for signer in SIGNERS],
        [await store.find(key) for key in keys],
    )


def in_file(path: Path, name: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Columns and rows of a table."""
    with sqlite3.connect(path) as db:
        cursor = db.execute(f'SELECT * FROM "{name}"')  # noqa: S608 - a table of ours
        found = [column[0] for column in cursor.description], cursor.fetchall()
    db.close()
    return found
