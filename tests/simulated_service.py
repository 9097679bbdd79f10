"""A service reduced to its loop, for the simulation.

It does nothing clever: it asks `decide` and `outcome` and carries out what they say, in the order
observe, decide, act, outcome, record, and it forgets everything but its journal when it crashes.
"""

import random
from collections import Counter

from msgspec.structs import replace

from facilitator.ethereum.fees import initial_fees
from facilitator.ethereum.receipts import Log, Receipt
from facilitator.payments import Proof, Reason, Refusal
from facilitator.schemes.jeju import JejuPayment
from facilitator.settlement import (
    Attempt,
    Broadcast,
    Confirm,
    Fail,
    Findings,
    Investigate,
    Keep,
    Mined,
    Observation,
    Policy,
    Reorged,
    Replace,
    SettleAgain,
    Settlement,
    SettlementState,
    Superseded,
    Transaction,
    TransactionState,
    Verdict,
    decide,
    outcome,
)
from tests.model_chain import BLOCK_SECONDS, ModelBlock, Node, Unreachable
from tests.simulated_journal import Journal

STALE_SECONDS = 3 * BLOCK_SECONDS
SETTLE_MARGIN = 3 * BLOCK_SECONDS


class Crash(Exception):
    """The process is gone, with all that it had in memory."""


class Process:
    """One life of the service, from its start to its crash."""

    def __init__(
        self,
        rng: random.Random,
        node: Node,
        journal: Journal,
        policy: Policy,
        *,
        crash: float,
        events: Counter[str],
    ) -> None:
        self._rng = rng
        self._node = node
        self._journal = journal
        self._policy = policy
        self._crash = crash
        self._events = events
        self._broadcast_at: dict[int, int] = {}

    def _step(self) -> None:
        if self._rng.random() < self._crash:
            self._events["crash"] += 1
            raise Crash

    # --- taking on

    def submit(self, payment: JejuPayment, signer: bytes, now: int) -> bool:
        """A request to settle: True when it was claimed (or claimed again after a failure)."""
        key = payment.authorization_nonce
        old = self._journal.settlements.get(key)
        view = self._node.one_view()
        if key.encode() in view.paid or self._refusal(payment, view, now) is not None:
            return False
        fees = initial_fees(self._node.market(), self._policy.max_fee_per_gas)
        floor = self._node.account_nonce(signer)
        if fees is None or (old is not None and old.state is not SettlementState.FAILED):
            return False
        self._step()
        settlement = Settlement(
            id=key,
            key=key,
            request_digest=b"",
            dialect="jeju",
            payment=payment,
            state=SettlementState.PENDING,
            version=0 if old is None else old.version + 1,
            listener=None,
            listener_until=0,
            replied_success_at=None,
            proof=None,
            refusal=None,
            created_at=now,
            updated_at=now,
        )
        self._journal.claim(settlement, signer, floor, fees, now)
        self._events["claim" if old is None else "claim after a failure"] += 1
        self._step()
        return True

    def _refusal(self, payment: JejuPayment, view: ModelBlock, now: int) -> Refusal | None:
        """Why a new transaction would not settle it, as far as a simulation on `view` shows."""
        if now // 1000 > payment.deadline - SETTLE_MARGIN:
            return Refusal(Reason.EXPIRED)
        if not self._node.simulate(payment.authorization_nonce.encode(), view):
            return Refusal(Reason.INSUFFICIENT_ALLOWANCE)
        return None

    # --- the loop

    def turn(self, now: int) -> None:
        """Observe, decide, act; then outcome and record."""
        open_work = [
            transaction
            for transaction in self._journal.transactions.values()
            if transaction.state in (TransactionState.PENDING, TransactionState.MINED)
        ]
        head = self._node.one_view().header
        hashes = [attempt.hash for each in open_work for attempt in each.attempts]
        receipts = self._node.receipts(hashes)
        market = self._node.market()
        buried = head.number - self._policy.superseded_depth
        signers = {transaction.signer for transaction in open_work}
        nonces = {
            signer: (self._node.account_nonce(signer), self._node.account_nonce_at(signer, buried))
            for signer in sorted(signers)
        }
        for transaction in open_work:
            latest, settled = nonces[transaction.signer]
            observation = Observation(
                head=head,
                receipts=receipts,
                account_nonce=latest,
                buried_account_nonce=settled,
                market=market,
                broadcast_at=self._broadcast_at.get(transaction.id),
                block_interval_ms=BLOCK_SECONDS * 1000,
            )
            self._act(transaction, observation, now)
        for signer in sorted(signers):
            self._fill_gap(signer, now)
        self._journal.bury(head.number - self._policy.reorg_watch_blocks)
        for settlement in self._journal.unsettled(head.number - self._policy.reorg_watch_blocks):
            self._conclude(settlement, now)

    def _act(self, transaction: Transaction, seen: Observation, now: int) -> None:
        action = decide(transaction, seen, now, self._policy)
        match action:
            case Mined(_, receipt):
                self._move(transaction, TransactionState.MINED, receipt.block_number)
                return
            case Superseded():
                self._events["superseded"] += 1
                self._move(transaction, TransactionState.SUPERSEDED, None)
                return
            case _:
                # a reorg, or a machine that lags: the next turn tells
                self._move(transaction, TransactionState.PENDING, None)
        match action:
            case Replace(fees):
                self._step()
                attempt = self._journal.add_attempt(transaction, fees, now)
                self._events["replacement"] += 1
                self._send(transaction, attempt, now)
            case Broadcast(attempt):
                self._send(transaction, attempt, now)

    def _move(self, old: Transaction, state: TransactionState, block: int | None) -> None:
        if (old.state, old.block_number) != (state, block):
            self._step()
            self._journal.move(old.id, state, block)

    def _send(self, transaction: Transaction, attempt: Attempt, now: int) -> None:
        self._step()
        self._broadcast_at[transaction.id] = now
        try:
            self._node.send(self._journal.bytes_of(attempt))
        except Unreachable:
            self._events["send without an answer"] += (
                1  # maybe sent: a later turn reads what the chain shows
            )

    def _fill_gap(self, signer: bytes, now: int) -> None:
        """What somebody else had signed for a nonce below ours can vanish in a reorg: then nobody
        will ever use it, unless we do.
        """
        view = self._node.one_view()
        wanted = view.account_nonces.get(signer, 0)
        ours = [
            each.account_nonce
            for each in self._journal.transactions.values()
            if each.signer == signer and each.state is TransactionState.PENDING
        ]
        if self._is_fresh(view, now) and ours and wanted < min(ours):
            fees = initial_fees(self._node.market(), self._policy.max_fee_per_gas)
            if fees is not None and not self._journal.has(signer, wanted):
                self._step()
                self._journal.fill(signer, wanted, fees, now)
                self._events["gap filled"] += 1
                self._step()

    def _is_fresh(self, view: ModelBlock, now: int) -> bool:
        return view.header.timestamp >= now // 1000 - STALE_SECONDS

    # --- what has come of it

    def _conclude(self, settlement: Settlement, now: int) -> None:
        """A verdict that changes anything is taken from one fresh machine's view alone."""
        carriers = self._journal.carriers(settlement)
        view = self._node.one_view()
        known = [each.block_number or 0 for each in carriers]
        if settlement.proof is not None:
            known.append(settlement.proof.block_number)
        if view.header.number < max(known) or not self._is_fresh(view, now):
            return
        carriers = [self._seen_again(each, view) for each in carriers]
        proof = self._proof(settlement, carriers, view)
        verdict = outcome(settlement, carriers, proof, None, self._policy)
        if verdict == Investigate():
            findings = self._investigate(settlement, view, now)
            if findings is None:
                return
            verdict = outcome(settlement, carriers, proof, findings, self._policy)
        self._record(settlement, verdict, now)

    def _seen_again(self, transaction: Transaction, view: ModelBlock) -> Transaction:
        """The second look: only what this one view shows as mined is mined."""
        if transaction.state is TransactionState.SUPERSEDED:
            return transaction
        hashes = [attempt.hash for attempt in transaction.attempts]
        for receipt in self._node.receipts_at(hashes, view).values():
            return replace(transaction, block_number=receipt.block_number)
        return replace(transaction, state=TransactionState.PENDING, block_number=None)

    def _proof(
        self, settlement: Settlement, carriers: list[Transaction], view: ModelBlock
    ) -> Proof | None:
        hashes = [attempt.hash for each in carriers for attempt in each.attempts]
        if settlement.proof is not None:
            hashes.append(settlement.proof.transaction_hash)
        for receipt in self._node.receipts_at(hashes, view).values():
            if view.header.number - receipt.block_number + 1 >= self._policy.confirmations:
                proof = _find_proof(settlement, receipt)
                if proof is not None:
                    return proof
        return None

    def _investigate(self, settlement: Settlement, view: ModelBlock, now: int) -> Findings | None:
        """None where the nonce is used, but not deep enough to say by whom."""
        key = settlement.key.encode()
        deep = view.at(view.header.number - self._policy.confirmations + 1)
        log = None if deep is None else deep.paid.get(key)
        if log is None and key in view.paid:
            return None
        proof = None if log is None else _proof_of(log)
        assert isinstance(settlement.payment, JejuPayment)
        return Findings(
            block_number=view.header.number,
            block_hash=view.header.hash,
            proof=proof,
            authorization_used=log is not None,
            refusal=self._refusal(settlement.payment, view, now),
        )

    def _record(self, settlement: Settlement, verdict: Verdict, now: int) -> None:
        change = replace(settlement, version=settlement.version + 1, updated_at=now)
        match verdict:
            case Confirm(proof):
                change = replace(change, state=SettlementState.CONFIRMED, proof=proof, refusal=None)
            case Reorged():
                change = replace(change, state=SettlementState.REORGED, proof=None)
            case Fail(refusal):
                lost = settlement.state is SettlementState.REORGED
                state = SettlementState.LOST if lost else SettlementState.FAILED
                change = replace(change, state=state, refusal=refusal)
            case SettleAgain():
                signer = self._journal.carriers(settlement)[-1].signer
                fees = initial_fees(self._node.market(), self._policy.max_fee_per_gas)
                floor = self._node.account_nonce(signer)
                if fees is not None:
                    self._step()
                    self._journal.settle_again(settlement, signer, floor, fees, now)
                    self._events["another transaction"] += 1
                return
            case Keep() | Investigate():
                return
        self._step()
        self._journal.settlements[settlement.id] = change
        self._events[change.state.value] += 1
        self._step()


def _find_proof(settlement: Settlement, receipt: Receipt) -> Proof | None:
    for log in receipt.logs:
        if log.topics == (settlement.key.encode(),):
            return _proof_of(log)
    return None


def _proof_of(log: Log) -> Proof:
    return Proof(log.transaction_hash, log.index, log.block_number, log.topics[0], 0)
