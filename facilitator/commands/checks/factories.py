"""The factories that may deploy a payer's smart wallet with its first payment (EIP-6492)."""

import asyncio
from collections.abc import Sequence

from facilitator.chain.client import Chain
from facilitator.commands.checks import Finding
from facilitator.ethereum.addresses import checksum


async def check_factories(network: str, factories: Sequence[bytes], chain: Chain) -> list[Finding]:
    """One finding a factory: whether it is deployed there. Raises ChainUnavailable."""
    codes = await asyncio.gather(*(chain.code(factory) for factory in factories))
    return [
        Finding(
            f"{network} factory {checksum(factory)}", bool(code), "has code" if code else "no code"
        )
        for factory, code in zip(factories, codes, strict=True)
    ]
