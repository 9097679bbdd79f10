"""The laws of `outcome`: what a settlement has come to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from facilitator.domain.payment import Proof, Reason, Refusal
from facilitator.domain.settlement import (
    Confirm,
    Fail,
    Findings,
    Investigate,
    Keep,
    Policy,
    Reorged,
    SettleAgain,
    Settlement,
    SettlementState,
    Transaction,
    TransactionKind,
    TransactionState,
    Verdict,
    outcome,
)
from tests.support import rows

POLICY = Policy(superseded_depth=12, max_reverts=2)
HEAD = 1_000
DEEP = HEAD - 12 + 1
PENDING = rows.transaction()
SUPERSEDED = rows.transaction(state=TransactionState.SUPERSEDED)
REVERTED = rows.transaction(state=TransactionState.MINED, block_number=DEEP)
SHALLOW = rows.transaction(state=TransactionState.MINED, block_number=DEEP + 1)
FINAL = rows.transaction(state=TransactionState.FINAL, block_number=1)

NOTHING_FOUND = Findings(
    block_number=HEAD,
    block_hash=HEAD.to_bytes(32),
    proof=None,
    authorization_used=False,
    refusal=None,
)
GROUP = replace(REVERTED, kind=TransactionKind.GROUP)
PROOF = rows.proof()
OTHER_PROOF = rows.proof(2)
NO_ALLOWANCE = Refusal(Reason.INSUFFICIENT_ALLOWANCE, "0", "1000000")
REFUSED = replace(NOTHING_FOUND, refusal=NO_ALLOWANCE)
USED = replace(NOTHING_FOUND, authorization_used=True)
PAID_BY_OTHERS = replace(USED, proof=OTHER_PROOF)
OPEN = [SettlementState.PENDING, SettlementState.REORGED]


def judge(
    *transactions: Transaction,
    state: SettlementState = SettlementState.PENDING,
    proof: Proof | None = None,
    findings: Findings | None = None,
    known: Proof | None = None,
) -> Verdict:
    settlement = rows.settlement(state=state, proof=known)
    return outcome(settlement, transactions, proof, findings, POLICY)


# --- proof


@pytest.mark.parametrize("state", OPEN)
@pytest.mark.parametrize("transaction", [PENDING, SUPERSEDED, REVERTED, SHALLOW, FINAL])
@pytest.mark.parametrize("findings", [None, REFUSED, USED, PAID_BY_OTHERS])
def test_a_proof_confirms_whatever_else_is_known(
    state: SettlementState, transaction: Transaction, findings: Findings | None
) -> None:
    """In any transaction of its own: another one that is still pending, or was superseded in
    appearance, changes nothing about money that has moved.
    """
    verdict = judge(transaction, PENDING, state=state, proof=PROOF, findings=findings)
    assert verdict == Confirm(PROOF)


@pytest.mark.parametrize("transaction", [REVERTED, SHALLOW, FINAL])
def test_a_transaction_that_was_mined_without_a_proof_confirms_nothing(
    transaction: Transaction,
) -> None:
    """Its receipt's status is not even asked: only the payment's own log counts."""
    assert judge(transaction) == Investigate()
    assert judge(transaction, findings=NOTHING_FOUND) == SettleAgain()


@pytest.mark.parametrize("state", OPEN)
def test_somebody_elses_proof_confirms(state: SettlementState) -> None:
    for transactions in ([SUPERSEDED], [REVERTED], [SHALLOW], [SUPERSEDED, REVERTED, FINAL]):
        verdict = judge(*transactions, state=state, findings=PAID_BY_OTHERS)
        assert verdict == Confirm(OTHER_PROOF)


# --- nothing is said before every transaction is resolved


@pytest.mark.parametrize("others", [(), (SUPERSEDED,), (REVERTED,), (FINAL, SUPERSEDED)])
@pytest.mark.parametrize("findings", [None, NOTHING_FOUND, REFUSED, USED, PAID_BY_OTHERS])
def test_while_a_transaction_is_pending_nothing_is_concluded(
    others: tuple[Transaction, ...], findings: Findings | None
) -> None:
    """It may still pay: neither a failure nor another transaction."""
    assert judge(*others, PENDING, findings=findings) == Keep()
    assert judge(PENDING, *others, findings=findings) == Keep()


@pytest.mark.parametrize("transactions", [(SUPERSEDED,), (REVERTED,), (SUPERSEDED, FINAL)])
def test_when_all_are_resolved_without_a_proof_the_chain_is_asked(
    transactions: tuple[Transaction, ...],
) -> None:
    assert judge(*transactions) == Investigate()


# --- settle again


@pytest.mark.parametrize("state", OPEN)
@pytest.mark.parametrize("superseded", [1, 2, 7])
def test_a_superseded_transaction_is_followed_by_another_however_often(
    state: SettlementState, superseded: int
) -> None:
    """It cost no gas and says nothing about the payment."""
    transactions = [SUPERSEDED] * superseded
    assert judge(*transactions, state=state, findings=NOTHING_FOUND) == SettleAgain()


def test_reverts_are_limited_because_each_burns_gas() -> None:
    again = judge(REVERTED, SUPERSEDED, findings=NOTHING_FOUND)
    assert again == SettleAgain()
    enough = judge(REVERTED, REVERTED, SUPERSEDED, findings=NOTHING_FOUND)
    assert enough == Fail(Refusal(Reason.TRANSACTION_REVERTED))


def test_another_transaction_need_not_wait_for_the_first_to_be_buried() -> None:
    """Two account nonces cannot pay one payment twice, so nothing false can come of it."""
    assert judge(SHALLOW, findings=NOTHING_FOUND) == SettleAgain()


# --- fail


@pytest.mark.parametrize("transactions", [(REVERTED,), (FINAL,), (SUPERSEDED,), (REVERTED, FINAL)])
def test_a_reason_that_persists_fails(transactions: tuple[Transaction, ...]) -> None:
    assert judge(*transactions, findings=REFUSED) == Fail(NO_ALLOWANCE)


@pytest.mark.parametrize("findings", [REFUSED, USED])
@pytest.mark.parametrize(
    "shallow", [SHALLOW, replace(SHALLOW, block_number=HEAD), replace(SHALLOW, block_number=None)]
)
@pytest.mark.parametrize("others", [(), (REVERTED,), (SUPERSEDED,)])
def test_nothing_fails_while_a_reorg_could_undo_the_revert(
    findings: Findings, shallow: Transaction, others: tuple[Transaction, ...]
) -> None:
    """The same bytes, mined again in another block, may pay after all."""
    assert judge(*others, shallow, findings=findings) == Keep()
    assert judge(shallow, shallow, *others, findings=NOTHING_FOUND) == Keep()


def test_a_used_nonce_without_a_proof_fails_with_its_own_reason() -> None:
    expected = Fail(Refusal(Reason.AUTHORIZATION_USED_ON_CHAIN))
    assert judge(REVERTED, findings=USED) == expected
    elsewhere = Refusal(Reason.AUTHORIZATION_USED_ELSEWHERE)
    assert judge(REVERTED, findings=replace(USED, refusal=elsewhere)) == Fail(elsewhere)


def test_a_used_nonce_is_never_settled_again() -> None:
    assert judge(SUPERSEDED, findings=USED) == Fail(Refusal(Reason.AUTHORIZATION_USED_ON_CHAIN))


# --- the reorg watch


def test_a_confirmed_settlement_stays_while_its_proof_does() -> None:
    verdict = judge(REVERTED, state=SettlementState.CONFIRMED, proof=PROOF, known=PROOF)
    assert verdict == Keep()


@pytest.mark.parametrize("transaction", [PENDING, REVERTED, SUPERSEDED, FINAL])
def test_a_confirmed_settlement_whose_proof_is_gone_is_reorged(transaction: Transaction) -> None:
    verdict = judge(transaction, state=SettlementState.CONFIRMED, known=PROOF, findings=REFUSED)
    assert verdict == Reorged()


@pytest.mark.parametrize(
    "moved",
    [
        replace(PROOF, block_number=PROOF.block_number + 1),
        replace(PROOF, log_index=PROOF.log_index + 1),
        replace(PROOF, transaction_hash=bytes(31) + b"\7"),
        replace(PROOF, reference=bytes(31) + b"\7"),
    ],
)
def test_a_proof_that_a_reorg_has_moved_is_followed(moved: Proof) -> None:
    """Or the journal would keep a log that is on no chain."""
    verdict = judge(PENDING, state=SettlementState.CONFIRMED, proof=moved, known=PROOF)
    assert verdict == Confirm(moved)


# --- for every state of knowledge there is

transactions = st.lists(
    st.builds(
        lambda state, number: rows.transaction(state=state, block_number=number),
        st.sampled_from(TransactionState),
        st.none() | st.integers(HEAD - 30, HEAD + 2),
    ),
    max_size=4,
)
proofs = st.none() | st.sampled_from([PROOF, OTHER_PROOF])
every_findings = st.none() | st.builds(
    Findings,
    block_number=st.just(HEAD),
    block_hash=st.just(HEAD.to_bytes(32)),
    proof=proofs,
    authorization_used=st.booleans(),
    refusal=st.none() | st.sampled_from([NO_ALLOWANCE, Refusal(Reason.EXPIRED)]),
)
settlements = st.one_of(
    st.sampled_from([rows.settlement(state=state) for state in OPEN]),
    st.just(rows.settlement(state=SettlementState.CONFIRMED, proof=PROOF)),
)


@given(settlements, transactions, proofs, every_findings)
def test_whatever_is_known_the_laws_hold(
    settlement: Settlement,
    carried_by: list[Transaction],
    proof: Proof | None,
    findings: Findings | None,
) -> None:
    """A confirmation has a proof; a failure has neither a proof nor a transaction that could still
    pay; a new transaction is only signed for a payment that is open and would pass.
    """
    verdict = outcome(settlement, carried_by, proof, findings, POLICY)
    alive = [each for each in carried_by if each.state is not TransactionState.SUPERSEDED]
    pending = any(each.state is TransactionState.PENDING for each in alive)
    confirmed = settlement.state is SettlementState.CONFIRMED
    match verdict:
        case Confirm(by):
            assert by == (proof or (findings.proof if findings else None))
        case Fail():
            assert not confirmed
            assert not pending
            assert proof is None
            assert findings is not None
            assert findings.proof is None
            assert all(each.block_number is not None for each in alive)
            assert all((each.block_number or 0) <= DEEP for each in alive)
        case SettleAgain():
            assert not confirmed
            assert not pending
            assert findings is not None
            assert not findings.authorization_used
            assert findings.refusal is None
            assert len(alive) < POLICY.max_reverts
        case Investigate():
            assert not pending
            assert proof is None
            assert findings is None
        case Reorged():
            assert confirmed
            assert proof is None
        case Keep():
            assert confirmed or pending or findings is not None


def test_a_filler_in_the_place_of_another_one_is_not_held_against_its_payment() -> None:
    """Where that is asked for again: what may yet be mined is waited for, a filler is no revert,
    and one that is shallow may still turn out to be the first one after all.
    """
    filler = replace(REVERTED, kind=TransactionKind.FILL)
    pending = replace(PENDING, kind=TransactionKind.FILL)
    assert judge(pending, REVERTED, findings=NOTHING_FOUND) == Keep()
    assert judge(filler, filler, REVERTED, findings=NOTHING_FOUND) == SettleAgain()
    assert judge(filler, findings=REFUSED) == Fail(NO_ALLOWANCE)
    assert judge(replace(SHALLOW, kind=TransactionKind.FILL), findings=REFUSED) == Keep()


def test_a_group_that_was_mined_is_not_held_against_a_payment_in_it() -> None:
    """It counts as no revert, however often: what went wrong inside says only the payment's own."""
    for groups in ([GROUP], [GROUP] * 5):
        assert judge(*groups) == Investigate()
        assert judge(*groups, findings=NOTHING_FOUND) == SettleAgain()
        assert judge(*groups, REVERTED, findings=NOTHING_FOUND) == SettleAgain()
        assert judge(*groups, findings=REFUSED) == Fail(NO_ALLOWANCE)
    reverted = Fail(Refusal(Reason.TRANSACTION_REVERTED))
    assert judge(GROUP, REVERTED, REVERTED, findings=NOTHING_FOUND) == reverted
    shallow = replace(SHALLOW, kind=TransactionKind.GROUP)
    assert judge(shallow, findings=REFUSED) == Keep()
