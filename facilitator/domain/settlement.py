"""The state machine of a payment: what becomes of it, decided by pure functions.

Three things have three lives. A `Settlement` is one payment that was taken on. A `Transaction` is
one account nonce of one signer: it carries one settlement, a group of them, or none (a filler). An
`Attempt` is one signed set of bytes for that nonce: replacements are further attempts of the same
transaction, and any of them may be the one that is mined. A settlement may ride on several
transactions in its life.

    PENDING --> CONFIRMED --> REORGED --> CONFIRMED | LOST             (settlement)
       |  ^
       v  |
     FAILED

    PENDING --> MINED --> FINAL                                        (transaction)
       |
       +------> SUPERSEDED

`decide` returns what to do next about one transaction, `outcome` what one settlement has come to.
Both are level-triggered: they read what the chain shows now, never what was expected. Depth is
observed, never stored. Times named `now`, `_at` or `_ms` are unix
milliseconds.

Transitions of a settlement. "request" is a request to settle, in any process; "loop" is the loop of
the chain, in the one process that has its lease. Each is one database transaction, and each but the
first a compare-and-set. The reply and the log line come after.

    from       to         made by  what is durable before it, or with it
    ---------  ---------  -------  -----------------------------------------------------------------
    (none)     PENDING    request  The payment's nonces, as unique keys; the transaction, with its
                                   account nonce and signed bytes, which are only then sent.
    PENDING,   the same   loop     Every transaction so far is SUPERSEDED, or was mined without
    REORGED                        paying. A further one is stored, and only then sent.
    PENDING,   CONFIRMED  loop     The proof: a log on the chain, unique in the journal,
    REORGED                        `confirmations` deep, and not the word of one endpoint alone.
    PENDING    FAILED     loop     Every transaction is SUPERSEDED, or was mined without paying and
                                   is `superseded_depth` deep. A new one would not pay either.
    REORGED    LOST       loop     The same.
    FAILED     PENDING    request  The request is the one that failed, once more. A new transaction
                                   is stored, and only then sent.
    CONFIRMED  REORGED    loop     Two checks in a row agree that the proof has left the chain.
    CONFIRMED  CONFIRMED  loop     The payment's proof is in another block by now.
    FAILED,    CONFIRMED  loop     A proof all the same, of what was signed before: this raises a
    LOST                           critical alert.

Transitions of a transaction, all made by the loop:

    from         to          when
    -----------  ----------  -----------------------------------------------------------------------
    PENDING      PENDING     A replacement is stored as a further attempt, and only then sent.
    PENDING      MINED       A receipt of any attempt is `confirmations` deep, succeeded or not.
    PENDING      SUPERSEDED  The account nonce was used `superseded_depth` blocks ago, and no
                             endpoint shows a receipt of ours.
    MINED        PENDING     A reorg took it out of the chain.
    MINED        FINAL       Its block is `reorg_watch_blocks` deep.
    SUPERSEDED,  PENDING     The chain wants the account nonce after all. Where a settlement that it
    FINAL                    carries was reported as failed, a filler takes its place.

Success is reported by a request, not by the loop: `replied_success_at` is set by compare-and-set,
once in a settlement's life, only in CONFIRMED and by the settlement's `waiter`, directly before the
first byte of the reply.

Why a payment is made at most once, never lost, and never misreported:

- At most once. The one-shot nonce that the payer signed lives in the token or the contract: two
  transactions for one payment cannot both move the money. One log proves one payment, since it is
  unique in the journal, and success without an idempotency key is reported once, by the
  compare-and-set above.
- Never lost. Signed bytes are stored before they are sent, so every transaction that may be mined
  is known. An account nonce is never given back. The loop's first turn after a crash reads the same
  rows as any other turn, and goes on from there.
- Never misreported. Unknown is not failed: a lost reply or an unreachable node changes nothing,
  only what the chain shows resolves anything. A receipt that succeeded without this payment's own
  log confirms nothing. Failure is reported only when no transaction that was signed can pay any
  more: those with a used account nonce cannot be mined, and those that were mined are too deep to
  be undone. Should a reorg free one all the same, it is not sent again; a filler takes its nonce.
"""

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

from facilitator.domain.payment import Proof, Reason, Refusal
from facilitator.domain.schemes import AnyPayment
from facilitator.ethereum.abi import Call
from facilitator.ethereum.fees import GWEI, FeeMarket, Fees, bumped_fees
from facilitator.ethereum.receipts import Block, Receipt


class SettlementState(StrEnum):
    PENDING = "pending"
    CONFIRMED = "confirmed"
    FAILED = "failed"
    REORGED = "reorged"
    LOST = "lost"


ENDED = frozenset({SettlementState.CONFIRMED, SettlementState.FAILED, SettlementState.LOST})


class TransactionState(StrEnum):
    PENDING = "pending"
    MINED = "mined"
    SUPERSEDED = "superseded"
    FINAL = "final"


class TransactionKind(StrEnum):
    SETTLE = "settle"
    GROUP = "group"
    FILL = "fill"


class Attempt(Struct, frozen=True):
    """Signed bytes for one account nonce. Stored before they are sent, so every one is known."""

    hash: bytes
    raw: bytes
    fees: Fees
    signed_at: int


class Transaction(Struct, frozen=True, kw_only=True):
    """One account nonce of one signer; `attempts` in the order of signing, never empty.

    `block_number` is where it was last seen mined (the reorg watch ends some blocks above it), and
    `gas_cost` what that has cost, in wei. `l1_fee` is the most that an OP-stack chain may charge
    for its data, in wei, beside gas.
    """

    id: int
    chain_id: int
    signer: bytes
    account_nonce: int
    kind: TransactionKind
    call: Call
    gas_limit: int
    state: TransactionState
    block_number: int | None
    attempts: tuple[Attempt, ...]
    gas_cost: int | None = None
    l1_fee: int = 0

    @property
    def carrying(self) -> Attempt:
        """Return the last attempt that is sure to do what the transaction is for: of a filler that
        has taken another transaction's place, the first one.
        """
        return self.attempts[0 if self.kind is TransactionKind.FILL else -1]


class Settlement(Struct, frozen=True, kw_only=True):
    """One payment that was taken on. `version` counts its changes, for compare-and-set.

    `proof` is set in CONFIRMED, `refusal` in FAILED and LOST. `waiter` is the one request that may
    report success, until `waiter_until`; `replied_success_at` is when one did. `traceparent` (W3C)
    is the span of the request that had it taken on.
    """

    id: str
    key: str
    idempotency_key: str | None = None
    request_digest: bytes
    dialect: str
    payment: AnyPayment
    state: SettlementState
    version: int
    waiter: str | None
    waiter_until: int
    replied_success_at: int | None
    proof: Proof | None
    refusal: Refusal | None
    created_at: int
    updated_at: int
    traceparent: str | None = None


def may_open_again(settlement: Settlement, request_digest: bytes) -> bool:
    """Return whether a request with this digest may settle the payment, which failed, once more."""
    failed = settlement.state is SettlementState.FAILED
    return failed and settlement.request_digest == request_digest


def nonce_conflict(settlement: Settlement, *, authorization_used: bool) -> Refusal:
    """Return why a payment is refused where `settlement`, of another payment, has its nonce: the
    nonce is used, or is about to be, or belongs to a failure (the chain would still accept it).
    """
    if settlement.state is SettlementState.FAILED and not authorization_used:
        return Refusal(Reason.NONCE_TAKEN)
    over = settlement.state in ENDED
    return Refusal(Reason.AUTHORIZATION_USED if over else Reason.BEING_SETTLED)


def repetition_refused(settlement: Settlement, now: int) -> Refusal | None:
    """Return why an identical request would not get the outcome, None where it would."""
    if settlement.replied_success_at is not None or settlement.state is SettlementState.LOST:
        return Refusal(Reason.AUTHORIZATION_USED)
    if settlement.waiter is not None and settlement.waiter_until > now:
        return Refusal(Reason.BEING_SETTLED)
    reported = (SettlementState.PENDING, SettlementState.CONFIRMED)
    return None if settlement.state in reported else Refusal(Reason.BEING_SETTLED)


class SettlementCounts(Struct, frozen=True):
    """The settlements of one chain, counted by state. `oldest_pending` is when the oldest PENDING
    one was taken on, unix milliseconds; None where none is pending.
    """

    states: dict[str, int]
    oldest_pending: int | None

    @property
    def total(self) -> int:
        """Return how many there are in all."""
        return sum(self.states.values())

    @property
    def pending(self) -> int:
        """Return how many are still open: PENDING or REORGED."""
        return self.states.get("pending", 0) + self.states.get("reorged", 0)


class Policy(Struct, frozen=True, kw_only=True):
    """The limits of settlement. Depths in blocks, inclusion counts as 1; `settle_margin` in seconds
    before a payment's deadline; `gas_budget` in wei a signer and UTC day, None for no limit.
    """

    confirmations: int = 1
    # Between two endpoints that lag or lie a nonce can seem used for some blocks.
    superseded_depth: int = 12
    replace_after_ms: int = 10_000
    rebroadcast_every_ms: int = 5_000
    max_fee_per_gas: int = 500 * GWEI
    reorg_watch_blocks: int = 64
    settle_margin: int = 6
    # How many transactions may be mined without moving the money, each of which burns gas, before
    # the settlement fails.
    max_reverts: int = 2
    # Payments that may share a transaction; 1: none do.
    batch_max: int = 32
    gas_budget: int | None = None

    def is_deep(self, block_number: int, head: Block) -> bool:
        """Return whether a block on the chain of `head` is `confirmations` deep."""
        return head.number - block_number + 1 >= self.confirmations

    def margin_seconds(self, block_interval_ms: int) -> int:
        """Return the seconds before its deadline from which a payment is not sent any more."""
        return max(self.settle_margin, -(-2 * block_interval_ms // 1000))

    def patience_ms(self, block_interval_ms: int) -> int:
        """Return how long the last attempt may wait for a block before it counts as stuck."""
        return max(self.replace_after_ms, 2 * block_interval_ms)


class Observation(Struct, frozen=True, kw_only=True):
    """What one turn of the loop saw of one signer's chain.

    `receipts` are by transaction hash, on the chain of `head`. `account_nonce` is how many
    transactions of the signer that chain has mined, `final_account_nonce` the same as of
    superseded_depth blocks earlier (0 where that is not known). `broadcast_at` is when this process
    last offered the transaction to the chain, None since its start. `block_interval_ms` is
    observed.
    """

    head: Block
    receipts: Mapping[bytes, Receipt]
    account_nonce: int
    final_account_nonce: int
    market: FeeMarket | None
    broadcast_at: int | None
    block_interval_ms: int = 0


class Wait(Struct, frozen=True):
    """Nothing to do for now."""


class Mined(Struct, frozen=True):
    """An attempt is on the chain, deep enough."""

    attempt: Attempt
    receipt: Receipt


class Superseded(Struct, frozen=True):
    """Something else used the account nonce: no attempt can be mined any more."""


class Replace(Struct, frozen=True):
    """Sign and store an attempt with these fees, then broadcast it."""

    fees: Fees


class Broadcast(Struct, frozen=True):
    """Send these bytes, maybe again; it does no harm if a node has them already. `at_cap`: the next
    block asks for more than they offer, and the cap does not allow more.
    """

    attempt: Attempt
    at_cap: bool = False


Action = Wait | Mined | Superseded | Replace | Broadcast


def decide(transaction: Transaction, observation: Observation, now: int, policy: Policy) -> Action:
    """Return what to do about one transaction. The first rule that matches wins:

    1. A receipt of any attempt: `Mined` once it is `confirmations` deep, until then `Wait`.
    2. The account nonce is used, `superseded_depth` blocks deep: `Superseded`.
    3. Not offered since this process started: `Broadcast` the stored bytes, which may be all that
       is needed.
    4. Next in line, and the last attempt has waited too long: `Replace`, if the bumped fees are
       within the cap.
    5. Every `rebroadcast_every_ms`: `Broadcast` the last attempt again.
    """
    seen = observation
    for attempt in transaction.attempts:
        receipt = seen.receipts.get(attempt.hash)
        if receipt is not None:
            deep = policy.is_deep(receipt.block_number, seen.head)
            return Mined(attempt, receipt) if deep else Wait()
    if seen.final_account_nonce > transaction.account_nonce:
        return Superseded()
    last, at_cap = transaction.attempts[-1], False
    if seen.account_nonce == transaction.account_nonce and seen.market is not None:
        # Only the next nonce in line can be stuck on its fees; all others wait for it.
        patience = policy.patience_ms(seen.block_interval_ms)
        fees = bumped_fees(last.fees, seen.market, policy.max_fee_per_gas)
        if now - last.signed_at >= patience:
            if fees is None:
                at_cap = seen.market.base_fee > last.fees.max_fee_per_gas
            elif seen.broadcast_at is not None:
                return Replace(fees)
    if seen.broadcast_at is None or now - seen.broadcast_at >= policy.rebroadcast_every_ms:
        return Broadcast(last, at_cap)
    return Wait()


class Findings(Struct, frozen=True, kw_only=True):
    """What a search of the chain found about a payment that none of its ended transactions paid.

    `block_number` and `block_hash` are the head that was searched. `proof` is there where somebody
    else had the payment executed; `authorization_used`: its one-shot nonce is used. Both are as of
    the last block that is `confirmations` deep: at the head the nonce could be used by a proof that
    does not count yet. A used nonce without a proof was used so long ago that every endpoint would
    show the proof. `refusal` is why a new transaction would not settle it, None where a simulation
    passed.
    """

    block_number: int
    block_hash: bytes
    proof: Proof | None
    authorization_used: bool
    refusal: Refusal | None


class Keep(Struct, frozen=True):
    """Nothing has changed."""


class Confirm(Struct, frozen=True):
    """The payment was made; this log proves it."""

    proof: Proof


class Investigate(Struct, frozen=True):
    """Search the chain (`Findings`), then ask again."""


class SettleAgain(Struct, frozen=True):
    """Sign a new transaction, at a new account nonce."""


class Fail(Struct, frozen=True):
    """Final: no transaction of ours can move this money any more."""

    refusal: Refusal


class Reorged(Struct, frozen=True):
    """The block of the proof has left the chain."""


Verdict = Keep | Confirm | Investigate | SettleAgain | Fail | Reorged


def outcome(
    settlement: Settlement,
    transactions: Iterable[Transaction],
    proof: Proof | None,
    findings: Findings | None,
    policy: Policy,
) -> Verdict:
    """Return what a settlement has come to. `proof` is the log found in the receipts of its own
    transactions, or in the transaction of the proof that it has, mined deep enough; None where
    there is none: a receipt that succeeded without this payment's own log confirms nothing.
    """
    if settlement.state is SettlementState.CONFIRMED:
        if proof is None:
            return Reorged()
        # A reorg can mine the same transaction again, in another block and at another log index.
        return Keep() if proof == settlement.proof else Confirm(proof)
    if proof is not None:
        return Confirm(proof)
    used_up = [each for each in transactions if each.state is not TransactionState.SUPERSEDED]
    if any(each.state is TransactionState.PENDING for each in used_up):
        return Keep()
    if findings is None:
        return Investigate()
    if findings.proof is not None:
        return Confirm(findings.proof)
    # The end of a group's transaction, or of a filler, decides nothing about one payment in it.
    alone = sum(each.kind is TransactionKind.SETTLE for each in used_up)
    refusal = _why_not_again(findings, alone, policy)
    if refusal is None:
        return SettleAgain()
    # A reorg can undo a revert as well, and the same bytes may pay in another block: a failure is
    # final only where the chain no longer changes its mind.
    deepest = findings.block_number - policy.superseded_depth + 1
    shallow = any(each.block_number is None or each.block_number > deepest for each in used_up)
    return Keep() if shallow else Fail(refusal)


def _why_not_again(findings: Findings, mined: int, policy: Policy) -> Refusal | None:
    if findings.authorization_used:
        return findings.refusal or Refusal(Reason.AUTHORIZATION_USED_ON_CHAIN)
    if findings.refusal is None and mined >= policy.max_reverts:
        return Refusal(Reason.TRANSACTION_REVERTED)
    return findings.refusal


class SettlementChange(Struct, frozen=True, kw_only=True):
    """A settlement's next state, applied only while its version is still `version`. `overturns`:
    it was FAILED or LOST until now, and that was reported.
    """

    id: str
    version: int
    state: SettlementState
    proof: Proof | None = None
    refusal: Refusal | None = None
    overturns: bool = False


class TransactionChange(Struct, frozen=True, kw_only=True):
    """A transaction's next state, the block it was seen in, and what it has cost there, in wei."""

    id: int
    state: TransactionState
    block_number: int | None = None
    gas_cost: int | None = None


class SettlementRecord(Struct, frozen=True):
    """A settlement with every transaction that was ever to carry it, in the order of signing."""

    settlement: Settlement
    transactions: tuple[Transaction, ...]


class OpenWork(Struct, frozen=True):
    """Everything that the loop of one chain has to follow; fillers are pending transactions that
    carry no settlement.
    """

    records: tuple[SettlementRecord, ...]
    fillers: tuple[Transaction, ...]

    @property
    def given_up(self) -> tuple[Transaction, ...]:
        """PENDING transactions that must not be sent again: a reorg has undone them after the
        failure of a settlement that they carry was reported.
        """
        found = {
            each.id: each
            for record in self.records
            if record.settlement.state in (SettlementState.FAILED, SettlementState.LOST)
            for each in record.transactions
            if each.state is TransactionState.PENDING and each.kind is not TransactionKind.FILL
        }
        return tuple(found.values())


Resolved = Mined | Superseded
# What a reorg may undo: a settlement with its mined transactions, or a mined gap filler.
Watched = SettlementRecord | Transaction


def mined_transactions(watched: Watched) -> list[Transaction]:
    """Return those whose state is MINED."""
    transactions = (watched,) if isinstance(watched, Transaction) else watched.transactions
    return [each for each in transactions if each.state is TransactionState.MINED]


def watched_hashes(watched: Watched) -> list[bytes]:
    """Return the hashes of every attempt of its mined transactions, and of the transaction that
    proves the payment, each once.
    """
    hashes = [attempt.hash for each in mined_transactions(watched) for attempt in each.attempts]
    if isinstance(watched, SettlementRecord) and watched.settlement.proof is not None:
        # It may be in somebody else's transaction.
        hashes.append(watched.settlement.proof.transaction_hash)
    return list(dict.fromkeys(hashes))


def as_resolved(
    transactions: Sequence[Transaction], resolved: Mapping[int, Resolved]
) -> tuple[list[Transaction], list[Receipt]]:
    """Return the transactions in the states that they have at the end of this turn, and the
    receipts seen in it; `resolved` are those that ended in it, by id.
    """
    now, receipts = [], []
    for each in transactions:
        end = resolved.get(each.id)
        if end is None:
            now.append(each)
            continue
        change = transaction_change(each.id, end)
        now.append(replace(each, state=change.state, block_number=change.block_number))
        if isinstance(end, Mined):
            receipts.append(end.receipt)
    return now, receipts


def moved_transactions(
    mined: Sequence[Transaction], receipts: Mapping[bytes, Receipt]
) -> list[TransactionChange]:
    """Return the changes of mined transactions whose receipt is now in another block, or gone."""
    changes = []
    for each in mined:
        receipt = next((receipts[one.hash] for one in each.attempts if one.hash in receipts), None)
        if receipt is None:
            changes.append(TransactionChange(id=each.id, state=TransactionState.PENDING))
        elif receipt.block_number != each.block_number:
            changes.append(_mined(each.id, receipt))
    return changes


def _mined(transaction_id: int, receipt: Receipt) -> TransactionChange:
    return TransactionChange(
        id=transaction_id,
        state=TransactionState.MINED,
        block_number=receipt.block_number,
        gas_cost=receipt.gas_cost,
    )


def transaction_change(transaction_id: int, end: Resolved) -> TransactionChange:
    """Return what the journal records about a transaction that was mined or superseded."""
    if isinstance(end, Mined):
        return _mined(transaction_id, end.receipt)
    return TransactionChange(id=transaction_id, state=TransactionState.SUPERSEDED)


def settlement_change(settlement: Settlement, verdict: Verdict) -> SettlementChange | None:
    """Return what the journal records about a verdict; None where nothing changes."""
    change = SettlementChange(id=settlement.id, version=settlement.version, state=settlement.state)
    match verdict:
        case Confirm(proof):
            overturns = settlement.state in (SettlementState.FAILED, SettlementState.LOST)
            confirmed = replace(change, state=SettlementState.CONFIRMED, proof=proof)
            return replace(confirmed, overturns=overturns)
        case Fail(refusal):
            reorged = settlement.state is SettlementState.REORGED
            state = SettlementState.LOST if reorged else SettlementState.FAILED
            return replace(change, state=state, refusal=refusal)
        case Reorged():
            return replace(change, state=SettlementState.REORGED)
        case _:
            return None
