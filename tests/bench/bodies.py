"""What is posted, signed before anything is measured, and what must come back."""

import time
from collections.abc import Mapping
from typing import Any

import msgspec

from facilitator.commands.devnet import Devnet
from facilitator.commands.payer import request_body, sign_payment
from facilitator.ethereum.addresses import checksum
from facilitator.ethereum.secp256k1 import Signer
from tests.bench.processes import BenchFailed

AMOUNT = 1_000_000  # atomic units of USDC: 1 USDC
RESOURCE = "/api/report"
OTHER_RESOURCE = "/api/repory"  # as long as the other
_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(dict[str, Any])


def payments(devnet: Devnet, count: int, *, asked: str = RESOURCE) -> list[bytes]:
    """Requests to verify or to settle as many payments, each with a nonce of its own, signed now;
    `asked` is what the seller says is paid for.
    """
    signer = Signer(devnet.payer.key)
    now = int(time.time())
    bodies = []
    for _ in range(count):
        header = sign_payment(
            signer,
            chain_id=devnet.chain_id,
            contract=devnet.contract,
            network=devnet.network_name,
            asset=devnet.usdc,
            pay_to=devnet.seller.address,
            amount=AMOUNT,
            resource=RESOURCE,
            timestamp=now,
        )
        body = request_body(header)
        body["paymentRequirements"]["resource"] = asked
        bodies.append(_encode(body))
    return bodies


class Expected:
    """Checks of replies; each raises BenchFailed."""

    def __init__(self, devnet: Devnet) -> None:
        self._payer = checksum(devnet.payer.address)

    def valid(self, _: bytes, reply: bytes) -> None:
        """/verify finds the payment good."""
        told = _decode(reply)
        _expect(told, isValid=True, payer=self._payer, amount=str(AMOUNT))

    def mismatch(self, _: bytes, reply: bytes) -> None:
        """/verify refuses without asking the chain."""
        words = f"Resource mismatch: {RESOURCE} !== {OTHER_RESOURCE}"
        _expect(_decode(reply), isValid=False, invalidReason=words)

    def echo(self, body: bytes, reply: bytes) -> None:
        """The bare application answers with the beginning of the body."""
        if not reply or not body.startswith(reply):
            raise BenchFailed(f"not an echo: {reply!r}")

    def settled(self, _: bytes, reply: bytes) -> None:
        """/settle has settled the payment."""
        _expect(_decode(reply), success=True, payer=self._payer, error=None)


def transaction_hash(reply: bytes) -> str:
    """The transaction that a reply of /settle names."""
    return str(_decode(reply)["txHash"])


def _decode(reply: bytes) -> dict[str, Any]:
    try:
        return _decoder.decode(reply)
    except msgspec.MsgspecError:
        raise BenchFailed(f"not a JSON object: {reply!r}") from None


def _expect(told: Mapping[str, Any], **members: object) -> None:
    if any(told.get(name) != value for name, value in members.items()):
        raise BenchFailed(f"expected {members}, got {dict(told)}")
