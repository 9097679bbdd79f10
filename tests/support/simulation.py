"""Settlement from arrival to the end, under every fault at once, on a chain made of a few lists.

One seed is one world: payments arrive, the chain reorganises, the mempool forgets, fees spike, the
node loses and lags, the process crashes, others use the signers' keys and settle our payments. Then
it all ends, the loop runs until nothing is left to do, and the chain alone judges what was said.
"""

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field

from facilitator.domain.schemes import scheme_of
from facilitator.domain.schemes.eip3009 import AUTHORIZATION_USED, TRANSFER, Eip3009Payment
from facilitator.domain.settlement import Policy, SettlementState, TransactionState
from facilitator.ethereum.abi import address_word, uint_word
from facilitator.ethereum.fees import GWEI, Fees
from facilitator.ethereum.secp256k1 import Signer
from facilitator.journal.store import StoreError
from tests.support.model_chain import BLOCK_SECONDS, MAX_REORG, Chain, Sent, Terms, Weather
from tests.support.model_node import ModelNode
from tests.support.simulated_journal import Journal
from tests.support.simulated_service import CHAIN_ID, Clock, Crash, Cut, Process

START = 1_700_000_000
# How long after the money has moved a failure may still be said: nobody could know it then.
STALE_SECONDS = 3 * BLOCK_SECONDS
ASSET = b"\xa5" * 20
SELLER = b"\x5e" * 20
STORM_SECONDS = 160
CALM_SECONDS = 600
QUIET_SECONDS = 24
TALL_FEES = Fees(1_000 * GWEI, 100 * GWEI)


@dataclass(slots=True)
class Arrival:
    """A payment and when the seller asks, and asks again after a failure."""

    payment: Eip3009Payment
    calldata: bytes
    at: int
    again_at: int | None
    stranger_at: int | None


@dataclass(slots=True)
class Verdicts:
    """What was wrong at the end, how much there was to be wrong about, and what had happened."""

    settlements: int
    events: Counter[str]
    wrong: list[str] = field(default_factory=list)
    most_attempts: int = 0


class World:
    """Everything that one seed decides."""

    def __init__(self, seed: int, policy: Policy | None = None, interruptions: float = 0.0) -> None:
        """`interruptions` is how often a turn is cut off, or the journal fails, where it writes."""
        self._interruptions = interruptions
        self._dice = random.Random(-seed - 1)  # noqa: S311 - and the world stays the seed's
        self._rng = rng = random.Random(seed)  # noqa: S311 - a seed must give the same world again
        self.policy = policy or Policy(confirmations=rng.choice((1, 3)))
        self.signers = tuple(
            Signer(bytes((number,)) * 32) for number in range(1, rng.randint(1, 3) + 1)
        )
        self._clock = Clock()
        self.arrivals: list[Arrival] = []
        self._terms: dict[bytes, Terms] = {}
        for index in range(rng.randint(4, 12)):
            self._draw_payment(index)
        self.chain = Chain(rng, self._terms, START)
        self.weather = Weather()
        self._events: Counter[str] = Counter()
        self.journal = journal = Journal(events=self._events)
        self.node = ModelNode(
            rng,
            self.chain,
            self.weather,
            {each.calldata: each.payment for each in self.arrivals},
            lambda raw: journal.signed[raw][1],
            self._events,
        )
        self._crash = rng.choice((0.0, 0.002, 0.02))
        self._process: Process | None = None
        self._down_until = 0
        self._spike_until = 0
        self._rivals = 1  # how many programs use the signers' keys beside us
        # when each settlement failed, to be judged against when the money moved
        self._failed_at: dict[str, int] = {}

    def _draw_payment(self, index: int) -> None:
        rng = self._rng
        at = START + rng.randint(2, STORM_SECONDS - 20)
        deadline = at + rng.choice((20, 60, 300, 300))
        blocked = range(0)
        if rng.random() < 0.5:
            begin = at + rng.randint(0, 12)
            blocked = range(begin, begin + rng.choice((4, 12, 40, 1000)))
        payment = Eip3009Payment(
            chain_id=CHAIN_ID,
            payer=b"\x9a" + index.to_bytes(19),
            asset=ASSET,
            pay_to=SELLER,
            amount=1,
            valid_from=1,
            deadline=deadline,
            signature=bytes(64) + b"\x1b",
            authorization_nonce=index.to_bytes(32),
            valid_after=0,
            valid_before=deadline + 1,
            domain_name="model",
            domain_version="model",
            signed_by_key=True,
        )
        calldata = scheme_of(payment).settlement_call(payment).calldata
        payer, nonce = address_word(payment.payer), payment.authorization_nonce
        self._terms[calldata] = Terms(
            deadline,
            blocked,
            mute=rng.random() < 0.3,
            asset=ASSET,
            events=(
                ((AUTHORIZATION_USED, payer, nonce), b""),
                ((TRANSFER, payer, address_word(SELLER)), uint_word(1)),
            ),
        )
        stranger_at = at + rng.randint(0, 40) if rng.random() < 0.4 else None
        again_at = at + rng.randint(30, 150) if rng.random() < 0.6 else None
        self.arrivals.append(Arrival(payment, calldata, at, again_at, stranger_at))

    # --- time

    def run(self) -> Verdicts:
        """Live through it all."""
        return asyncio.run(self._live())

    async def _live(self) -> Verdicts:
        bad = self._rng.choice((0.5, 1.0, 2.0))
        self._rivals = self._rng.choice((1, 1, 5))
        for now in range(START + 1, START + STORM_SECONDS):
            self._storm(now, bad)
            await self._tick(now, laziness=0.2 * bad)
        self.weather.lost_request = self.weather.lost_reply = self.weather.lag = 0.0
        self.weather.outage = False
        # A restart would mend what interruptions have left half done.
        self._process = self._process if self._interruptions else None
        self._crash = self._interruptions = 0.0
        self.chain.base_fee = GWEI
        quiet = 0
        for now in range(START + STORM_SECONDS, START + STORM_SECONDS + CALM_SECONDS):
            await self._tick(now, laziness=0.0)
            quiet = quiet + 1 if self._is_quiet() else 0
            if quiet > QUIET_SECONDS:
                return self._judge()
        verdicts = self._judge()
        verdicts.wrong.append("it never came to rest")
        return verdicts

    def _is_quiet(self) -> bool:
        open_states = (SettlementState.PENDING, SettlementState.REORGED)
        journal = self.journal
        return not any(each.state in open_states for each in journal.settlements.values()) and (
            not any(
                each.state is TransactionState.PENDING for each in journal.transactions.values()
            )
        )

    def _storm(self, now: int, bad: float) -> None:
        rng, chain, weather = self._rng, self.chain, self.weather
        if rng.random() < 0.05:
            weather.lost_request = rng.choice((0.0, 0.02, 0.1)) * bad
            weather.lost_reply = rng.choice((0.0, 0.1, 0.3)) * bad
            weather.lag = rng.choice((0.0, 0.1, 0.4)) * bad
            weather.outage = rng.random() < 0.1 * bad
        if rng.random() < 0.04 * bad and chain.head.header.number > MAX_REORG:
            self._events["reorg"] += 1
            chain.reorg(rng.randint(1, MAX_REORG), lost=rng.random(), laziness=0.3)
        if rng.random() < 0.05 * bad:
            for slot in [each for each in sorted(chain.mempool) if rng.random() < 0.5]:
                del chain.mempool[slot]
                self._events["mempool drop"] += 1
        if rng.random() < 0.02 * bad * self._rivals:
            self._events["foreign transaction"] += 1
            signer = rng.choice(self.signers).address
            nonce = chain.head.account_nonces.get(signer, 0)
            chain.mempool[signer, nonce] = Sent(
                b"foreign".ljust(24, b"\0") + now.to_bytes(8), signer, nonce, TALL_FEES, None
            )
        if now >= self._spike_until:
            chain.base_fee = GWEI
            if rng.random() < 0.02 * bad:
                self._events["fee spike"] += 1
                self._spike_until = now + rng.randint(4, 40)
                chain.base_fee = rng.choice((3, 8, 50, 700)) * GWEI

    async def _tick(self, now: int, laziness: float) -> None:
        for arrival in self.arrivals:
            if arrival.stranger_at == now:
                key = arrival.payment.payer
                stranger = Sent(
                    key.rjust(32, b"S"), b"stranger " + key, 0, TALL_FEES, arrival.calldata
                )
                self.chain.accept(stranger)
        if now % BLOCK_SECONDS == 0 and now > self.chain.head.header.timestamp:
            self.chain.mine(now, laziness)
        if now < self._down_until:
            return
        self._clock.now = now * 1000
        if self._process is None:
            self._process = Process(
                self._rng,
                self.node,
                self.journal,
                self.signers,
                ASSET,
                self.policy,
                self._clock,
                crash=self._crash,
                interrupt=self._interrupt,
                events=self._events,
            )
        try:
            for arrival in self.arrivals:
                if now in (arrival.at, arrival.again_at):
                    await self._process.submit(arrival.payment)
            await self._process.turn()
        except Crash:
            self._process = None
            self._down_until = now + self._rng.randint(1, 12)
            await asyncio.sleep(0)  # what was on its way when it crashed has gone out, or has not
        self._note_failures(now)

    def _interrupt(self) -> None:
        if self._dice.random() < self._interruptions:
            fault = self._dice.choice((Cut, StoreError))
            self._events[fault.__name__] += 1
            raise fault

    def _note_failures(self, now: int) -> None:
        for each in self.journal.settlements.values():
            if each.state in (SettlementState.FAILED, SettlementState.LOST):
                self._failed_at.setdefault(each.id, now)
            else:
                self._failed_at.pop(each.id, None)

    # --- judgement

    def _judge(self) -> Verdicts:
        verdicts = Verdicts(len(self.journal.settlements), self._events)
        wrong = verdicts.wrong
        paid = self.chain.head.paid
        for each in self.journal.settlements.values():
            call = scheme_of(each.payment).settlement_call(each.payment)
            log = paid.get(call.calldata)
            ours = {a.hash for t in self.journal.carriers(each) for a in t.attempts}
            match each.state:
                case SettlementState.CONFIRMED:
                    if log is not None and log.transaction_hash not in ours:
                        self._events["paid by a stranger"] += 1
                    proof = each.proof
                    assert proof is not None
                    if log is None:
                        wrong.append(f"{each.id} is confirmed, and nobody was paid")
                    elif (log.transaction_hash, log.index, log.block_number) != (
                        proof.transaction_hash,
                        proof.log_index,
                        proof.block_number,
                    ):
                        wrong.append(f"{each.id} is confirmed by a log that is not on the chain")
                case SettlementState.FAILED | SettlementState.LOST:
                    if log is not None and log.transaction_hash in ours:
                        wrong.append(f"{each.id} is {each.state}, and our transaction paid")
                    elif log is not None and self._long_known(each.id, log.block_number):
                        wrong.append(f"{each.id} is {each.state}, though somebody had paid")
                case SettlementState.PENDING | SettlementState.REORGED:
                    wrong.append(f"{each.id} is stuck: {each.state}")
        self._judge_signatures(verdicts)
        return verdicts

    def _long_known(self, settlement_id: str, block_number: int) -> bool:
        block = self.chain.head.at(block_number + self.policy.confirmations - 1)
        known_at = block.header.timestamp + STALE_SECONDS if block else 2**63
        return known_at < self._failed_at.get(settlement_id, 2**63)

    def _judge_signatures(self, verdicts: Verdicts) -> None:
        owner: dict[tuple[bytes, int], int] = {}
        for transaction_id, sent in self.journal.signed.values():
            slot = (sent.sender, sent.account_nonce)
            if owner.setdefault(slot, transaction_id) != transaction_id:
                verdicts.wrong.append(f"account nonce {slot} is signed for two transactions")
            if sent.fees.max_fee_per_gas > self.policy.max_fee_per_gas:
                verdicts.wrong.append("an attempt above the fee cap")
        for transaction in self.journal.transactions.values():
            verdicts.most_attempts = max(verdicts.most_attempts, len(transaction.attempts))
            if transaction.state is TransactionState.PENDING:
                verdicts.wrong.append(f"transaction {transaction.id} is stuck")
