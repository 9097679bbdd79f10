"""`make demo`: a payment from start to end, on a chain of its own, told as it happens.

Exits 0 only if every step held, and leaves nothing running.
"""

import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp

from facilitator.devnet import Account, AnvilError, Devnet, DevnetOptions
from facilitator.dialects.jeju_replies import human
from facilitator.ethereum.abi import MAX_UINT256, address_word, selector, uint_word
from facilitator.ethereum.addresses import checksum
from facilitator.ethereum.secp256k1 import Signer
from facilitator.payer import request_body, sign_payment

PRICE = 1_000_000  # atomic units of USDC: 1 USDC
START_TIMEOUT = 15.0  # seconds
STOP_TIMEOUT = 10.0  # seconds


class DemoFailed(Exception):
    """A step did not hold; the text says which and how."""


def expect(held: object, otherwise: str) -> None:
    """End the demo unless the step held."""
    if not held:
        raise DemoFailed(otherwise)


def say(text: str = "") -> None:
    """A line of the story."""
    print(text, flush=True)


async def main() -> int:
    """Tell the story; the exit code."""
    try:
        async with Devnet.start(DevnetOptions(port=0)) as devnet:
            say("A payment on a chain of its own")
            say()
            say(f"  chain      anvil, id {devnet.chain_id}, a block a second, {devnet.url}")
            say(f"  contract   X402Facilitator {checksum(devnet.contract)}")
            async with _service(devnet) as url, aiohttp.ClientSession(url) as session:
                say(f"  service    {url}, signing as {checksum(devnet.signer.address)}")
                say()
                await _story(devnet, session)
    except (DemoFailed, AnvilError) as failed:
        print(f"error: {failed}", file=sys.stderr)
        return 1
    say()
    say("Every step held.")
    return 0


async def _story(devnet: Devnet, session: aiohttp.ClientSession) -> None:
    people = {"payer": devnet.payer, "seller": devnet.seller, "fees": devnet.fee_recipient}
    before = await _balances(devnet, people)
    approve = selector("approve(address,uint256)") + address_word(devnet.contract)
    await devnet.transact(devnet.payer, devnet.usdc, approve + uint_word(MAX_UINT256))
    say("1. The payer lets the contract take USDC, once (ERC-20 approve), then signs a payment")
    say(f"   of {human(PRICE, 6)} USDC to the seller: no transaction, no gas.")
    body = request_body(_payment(devnet))

    status, reply = await _post(session, "/verify", body)
    expect(status == 200 and reply["isValid"], f"/verify refused: {status} {reply}")
    say("2. The seller asks: would it settle?")
    say(f"   POST /verify -> isValid true, payer {reply['payer']}")

    status, reply = await _post(session, "/settle", body)
    expect(status == 200 and reply["success"], f"/settle failed: {status} {reply}")
    say("3. The seller asks to settle it. The facilitator pays the gas and waits for the block.")
    say(
        f"   POST /settle -> success true, fee {reply['fee']['human']}, net {reply['net']['human']}"
    )
    say(f"   transaction {reply['txHash']}")
    after = await _balances(devnet, people)
    fee, net = int(reply["fee"]["base"]), int(reply["net"]["base"])
    moved = {name: after[name] - before[name] for name in people}
    expect(moved == {"payer": -PRICE, "seller": net, "fees": fee}, f"balances moved by {moved}")
    say("4. The chain agrees:")
    say(f"   {'USDC of':10}{'before':>16}{'after':>16}")
    for name in people:
        say(f"   {name:10}{human(before[name], 6):>16}{human(after[name], 6):>16}")

    status, again = await _post(session, "/settle", body)
    expect(status == 200 and not again["success"], f"the replay was not refused: {again}")
    expect(again["txHash"] == reply["txHash"], f"the replay names another transaction: {again}")
    expect(await _balances(devnet, people) == after, "the replay moved money")
    say("5. The same payment again is refused, and moves nothing:")
    say(f"   POST /settle -> success false, {again['error']!r}")


def _payment(devnet: Devnet) -> dict[str, Any]:
    return sign_payment(
        Signer(devnet.payer.key),
        chain_id=devnet.chain_id,
        contract=devnet.contract,
        network=devnet.network_name,
        asset=devnet.usdc,
        pay_to=devnet.seller.address,
        amount=PRICE,
        resource="/api/report",
        timestamp=int(time.time()),
    )


async def _balances(devnet: Devnet, people: dict[str, Account]) -> dict[str, int]:
    return {name: await _balance(devnet, account.address) for name, account in people.items()}


async def _balance(devnet: Devnet, address: bytes) -> int:
    call = selector("balanceOf(address)") + address_word(address)
    query = {"to": "0x" + devnet.usdc.hex(), "data": "0x" + call.hex()}
    return int(str(await devnet.rpc("eth_call", query, "latest")), 16)


async def _post(
    session: aiohttp.ClientSession, path: str, body: dict[str, Any]
) -> tuple[int, dict[str, Any]]:
    async with session.post(path, json=body) as response:
        return response.status, await response.json()


@asynccontextmanager
async def _service(devnet: Devnet) -> AsyncIterator[str]:
    """The real service as a process of its own; its URL. It must end by itself when asked to."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        environment = {
            **os.environ,
            **devnet.environment(),
            "HOST": "127.0.0.1",
            "FACILITATOR_PORT": "0",
            "FACILITATOR_ENV": "development",
            "LOG_FORMAT": "json",
            "LOG_LEVEL": "INFO",
            "DATABASE_URL": f"sqlite:///{folder}/facilitator.db",
        }
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "facilitator", "serve"), env=environment, stderr=output
            )
        try:
            yield await _url(process, log)
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(STOP_TIMEOUT):
                code = await process.wait()
            expect(code == 0, f"the service ended with exit code {code}: {_text(log)}")
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def _url(process: asyncio.subprocess.Process, log: Path) -> str:
    """Where the service listens, from its start line, once it is ready."""
    deadline = time.monotonic() + START_TIMEOUT
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < deadline and process.returncode is None:
            await asyncio.sleep(0.1)
            address = _listening(log)
            if address is None:
                continue
            url = f"http://{address}"
            with suppress(aiohttp.ClientError):
                async with session.get(f"{url}/ready") as response:
                    if response.status == 200:
                        return url
    raise DemoFailed(f"the service did not start: {_text(log)}")


def _listening(log: Path) -> str | None:
    """host:port, from the start line in the service's log."""
    lines = [json.loads(line) for line in _text(log).splitlines() if line.startswith("{")]
    addresses = [str(line["listening"]) for line in lines if line["event"] == "started"]
    return addresses[0] if addresses else None


def _text(log: Path) -> str:
    return log.read_text()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
