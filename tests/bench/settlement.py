"""Settling payments of one signer, many in flight, judged by the chain's own logs."""

from facilitator.commands.devnet import Devnet
from tests.bench.bodies import Expected, payments, transaction_hash
from tests.bench.load import Load, run_load
from tests.bench.processes import BenchFailed, Server
from tests.support.chain import settled_logs

IN_FLIGHT = 64


async def settle(devnet: Devnet, service: Server, count: int) -> Load:
    """Settle so many payments, IN_FLIGHT at a time. Raises BenchFailed unless every reply says
    success, and the chain shows exactly one settlement for each.
    """
    before = {log.payment_id for log in await settled_logs(devnet)}
    expected = Expected(devnet)
    told: list[str] = []

    def check(body: bytes, reply: bytes) -> None:
        expected.settled(body, reply)
        told.append(transaction_hash(reply))

    bodies = payments(devnet, count)
    load = await run_load(service, "/settle", bodies, check, connections=IN_FLIGHT)
    logs = [log for log in await settled_logs(devnet) if log.payment_id not in before]
    shown = [log.transaction_hash for log in logs]
    if len(told) != count or sorted(told) != sorted(shown):
        raise BenchFailed(f"{len(told)} of {count} replies say success, the chain {len(shown)}")
    return load
