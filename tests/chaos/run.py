"""One run: sellers ask, faults befall the chain and its endpoints, the service is killed and
started again on the same journal; then the faults end, and everybody asks until it is known what
became of his payment.
"""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from random import Random

import aiohttp
from eth_utils.address import to_checksum_address
from msgspec import Struct, field

from facilitator.commands.devnet import Devnet, DevnetOptions
from tests.chaos.evidence import Evidence, balances, gather, unresolved
from tests.chaos.faults import REORG_DEPTH, heal, spoil_chain, spoil_endpoints
from tests.chaos.judge import Violation, judge
from tests.chaos.payments import Payment, post, sign
from tests.chaos.plan import (
    FUNDS_OF_THE_POOR,
    PATIENT,
    PAYERS,
    POOR,
    SIGNERS,
    Ask,
    Order,
    lives,
    orders,
)
from tests.support.chain import MAX_UINT256, approve, balance
from tests.support.encoding import calldata
from tests.support.faultproxy import FaultProxy, fault_proxy
from tests.support.service import Service, environment, launch

JOURNAL = "facilitator.db"
WAIT = 10  # seconds that the service lets a request wait: shorter than some faults
DRAIN = 120.0  # seconds, until everything must be known
ASK_EVERY = 1.0  # seconds
BURIED = 20  # blocks after which no failure is undone
# What a service that works never logs, whatever happens around it.
BUGS = ("unhandled_error", "turn_broken")
OF_MANY_KINDS = ("broadcast_refused", "endpoint_excluded")


class Run(Struct):
    """A run as it goes on, and what it has come to."""

    seed: int
    seconds: float
    devnet: Devnet
    folder: Path
    urls: list[str]
    confirmations: int
    session: aiohttp.ClientSession
    started: float = field(default_factory=time.monotonic)
    storm_over: float = 0.0  # of `time.monotonic`, like `started`
    url: str = ""  # where the service listens; "" while it does not
    kills: int = 0
    payments: list[Payment] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)  # warnings and worse that were logged
    violations: list[Violation] = field(default_factory=list)
    evidence: Evidence | None = None


async def run(seed: int, seconds: float, folder: Path) -> Run:
    """All of it. The chain is the run's own; the journal is left in `folder`."""
    random = Random(f"{seed} chain depth")  # noqa: S311 - a seed, so that it can be repeated
    async with AsyncExitStack() as stack:
        devnet = await stack.enter_async_context(Devnet.start(DevnetOptions(port=0, block_time=1)))
        await _fund(devnet)
        before = await balances(devnet)
        proxies = [await stack.enter_async_context(fault_proxy(devnet.url)) for _ in range(2)]
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        state = Run(
            seed=seed,
            seconds=seconds,
            devnet=devnet,
            folder=folder,
            urls=[proxy.url for proxy in proxies],
            # With one, what was told can leave the chain, and comes back in another block.
            confirmations=random.choice((1, REORG_DEPTH + 1)),
            session=await stack.enter_async_context(aiohttp.ClientSession(connector=connector)),
        )
        await _storm(state, proxies)
        state.storm_over = time.monotonic()
        await heal(devnet, proxies)
        await _calm(state)
        for proxy in proxies:
            state.faults.update(proxy.drawn)
        state.evidence = await gather(devnet, folder / JOURNAL, state.payments, before)
        exact = state.confirmations > REORG_DEPTH
        state.violations += judge(state.payments, state.evidence, exact=exact)
    return state


async def _fund(devnet: Devnet) -> None:
    """Allowances, and a payer who cannot pay for everything; deep enough that they stay."""
    poor = devnet.accounts[POOR]
    too_much = await balance(devnet, poor.address) - FUNDS_OF_THE_POOR
    call = calldata("transfer(address,uint256)", devnet.deployer.address, too_much)
    await devnet.transact(poor, devnet.usdc, call)
    for index in PAYERS:
        await approve(devnet, devnet.accounts[index], MAX_UINT256)
    await devnet.rpc("anvil_mine", hex(BURIED))


async def _storm(state: Run, proxies: Sequence[FaultProxy]) -> None:
    async with asyncio.TaskGroup() as tasks:
        service = tasks.create_task(_live_and_die(state))
        storms = [
            tasks.create_task(spoil_endpoints(proxies, state.seed, state.faults)),
            tasks.create_task(spoil_chain(state.devnet, state.seed, state.faults)),
        ]
        async with asyncio.TaskGroup() as sellers:
            for order in orders(state.seed, short_lived=state.confirmations > REORG_DEPTH):
                await asyncio.sleep(order.pause)
                if _over(state):
                    break
                sellers.create_task(_sell(state, order))
        for task in (service, *storms):
            task.cancel()


async def _sell(state: Run, order: Order) -> None:
    """Sign a payment, and ask as its seller does."""
    payment = sign(state.devnet, order)
    state.payments.append(payment)

    async def one(ask: Ask) -> None:
        await asyncio.sleep(ask.after)
        await _listening(state)
        payment.heard.append(await post(state.session, state.url, payment, ask))

    async with asyncio.TaskGroup() as asks:
        for ask in order.asks:
            asks.create_task(one(ask))
    while order.persistence is not None and not payment.final and not _over(state):
        await one(Ask(after=order.persistence, key=order.asks[0].key, patience=PATIENT))


def _over(state: Run) -> bool:
    return time.monotonic() >= state.started + state.seconds


async def _listening(state: Run) -> None:
    while not state.url:  # noqa: ASYNC110 - another process comes up
        await asyncio.sleep(0.02)


def _variables(state: Run) -> dict[str, str]:
    keys = ",".join("0x" + state.devnet.accounts[index].key.hex() for index in SIGNERS)
    return environment(
        state.devnet,
        state.folder,
        FACILITATOR_PRIVATE_KEY=keys,
        JEJU_RPC_URL=",".join(state.urls),
        CONFIRMATIONS=str(state.confirmations),
        SETTLE_TIMEOUT_SECONDS=str(WAIT),
        FEE_RECIPIENT_ADDRESS=to_checksum_address(state.devnet.fee_recipient.address),
    )


async def _live_and_die(state: Run) -> None:
    """For ever: the service starts on the same journal, and is killed."""
    random = Random(f"{state.seed} starts")  # noqa: S311
    for life in lives(state.seed):
        async with launch(_variables(state)) as service:
            try:
                if life is None:
                    await asyncio.sleep(random.uniform(0.2, 1.5))
                else:
                    await service.started()
                    state.url = service.url
                    await asyncio.sleep(life)
                ended = service.process.returncode
                if ended is not None:
                    _report(state, f"ended by itself with {ended}: {service.output[-2000:]!r}")
            finally:
                state.url = ""
                await service.stop(signal.SIGKILL)
                _look_for_bugs(state, service)
            state.kills += 1


def _look_for_bugs(state: Run, service: Service) -> None:
    for line in service.lines:
        if line["level"] not in ("debug", "info"):
            kind = f" {line['fault']}" if line["event"] in OF_MANY_KINDS else ""
            state.events[line["event"] + kind] += 1
    for name in BUGS:
        for line in service.logged(name):
            _report(state, str(line))


def _report(state: Run, what: str) -> None:
    state.violations.append(Violation("service", what))


async def _calm(state: Run) -> None:
    """No faults any more: ask until all is final; then a stop that leaves nothing open."""
    async with launch(_variables(state)) as service:
        await service.started()
        state.url = service.url
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN), asyncio.TaskGroup() as sellers:
                for payment in state.payments:
                    sellers.create_task(_ask_until_final(state, payment))
        await state.devnet.rpc("anvil_mine", hex(BURIED))
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN):
                while unresolved(state.folder / JOURNAL):  # noqa: ASYNC110 - it is another process
                    await asyncio.sleep(ASK_EVERY)
        code = await service.stop()
        if code != 0:
            _report(state, f"a stop in calm weather ended with {code}")
        _look_for_bugs(state, service)


async def _ask_until_final(state: Run, payment: Payment) -> None:
    """Nobody asks again who knows: were a failure undone, that would be nobody's wish."""
    while not payment.final:
        ask = Ask(after=0.0, key=None, patience=PATIENT)
        payment.heard.append(await post(state.session, state.url, payment, ask))
        if not payment.final:
            await asyncio.sleep(ASK_EVERY)
