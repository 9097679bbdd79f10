"""What tests ask of a running service in the Jeju dialect."""

import time
from collections.abc import Mapping
from typing import Any

from facilitator.commands.devnet import Devnet
from tests.support.chain import devnet_payment
from tests.support.service import Service, request

UNREADABLE = "Invalid payment header encoding"
OTHER = "0x" + "11" * 20


def now() -> int:
    """Unix seconds."""
    return int(time.time())


async def refusal(service: Service, header: Mapping[str, Any], **changes: Any) -> str:
    """The words of /verify, which must be those of /settle as well."""
    verified = await service.verify(header, **changes)
    settled = await service.settle(header, **changes)
    assert verified["isValid"] is False
    assert (verified["payer"], verified["amount"]) == (None, None)
    assert settled["success"] is False
    assert (settled["settlementId"], settled["fee"], settled["net"]) == (None, None, None)
    assert settled["error"] == verified["invalidReason"]
    words: str = settled["error"]
    return words


def asked(header: Mapping[str, Any]) -> dict[str, Any]:
    """What a seller asks for who asks for exactly this payment."""
    requirements: dict[str, Any] = request(header)["paymentRequirements"]
    return requirements


def without(header: Mapping[str, Any], member: str) -> "dict[str, Any]":
    """A header that lacks a member; what the seller asks for is read from the whole one."""

    class Lacking(dict[str, Any]):
        def __missing__(self, _: str) -> str:
            return "x"

    return Lacking({name: value for name, value in header.items() if name != member})


async def verify_at(
    devnet: Devnet, service: Service, path: str, seconds: int
) -> tuple[int, dict[str, Any]]:
    """The reply to a payment that was signed `seconds` ago (ahead, if negative) to the second:
    asked again where the second had passed when the service answered.
    """
    while True:
        signed_at = now() - seconds
        header = devnet_payment(devnet, timestamp=signed_at)
        status, reply = await service.post(path, request(header))
        # one clock for both processes: the check happened between `signed_at` and the reply
        if reply["timestamp"] // 1000 == signed_at + seconds:
            return status, reply
