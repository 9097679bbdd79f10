"""What is measured of a running service besides its requests: wired here, on one task group."""

import anyio
from anyio.abc import TaskGroup

from facilitator.chain.client import Chain
from facilitator.config.settings import NetworkConfig
from facilitator.engine.loop import Watcher
from facilitator.engine.metrics import Observed
from facilitator.engine.signers import SignerPool
from facilitator.engine.survey import Survey
from facilitator.journal.store import Store
from facilitator.telemetry.metrics import Metrics

LAG_EVERY = 1.0  # seconds between two looks at how late the event loop is


def observe(
    tasks: TaskGroup,
    network: NetworkConfig,
    *,
    chain: Chain,
    signers: SignerPool | None,
    watcher: Watcher | None,
    store: Store,
    metrics: Metrics,
    max_fee_per_gas: int,
) -> Observed:
    """Time the calls to a network's nodes and, where payments are settled on it or dashboards know
    it, survey it from now on.
    """
    name = network.network.name
    for endpoint in chain.endpoints:
        endpoint.observe = metrics.rpc_timer(name, endpoint.name).observe
    survey = None
    if signers is not None or name in metrics.networks:
        survey = Survey(
            network=name,
            chain_id=network.network.chain_id,
            chain=chain,
            store=store,
            signers=signers,
            metrics=metrics,
            max_fee_per_gas=max_fee_per_gas,
        )
        tasks.start_soon(survey.run)
    return Observed(name, chain, signers, watcher, survey)


async def watch_event_loop(metrics: Metrics) -> None:
    """Note for ever how late timers fire: that late is everything else, too."""
    while True:
        due = anyio.current_time() + LAG_EVERY
        await anyio.sleep(LAG_EVERY)
        metrics.loop_lag.observe(max(anyio.current_time() - due, 0))
