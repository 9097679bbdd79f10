"""The embedded chain, for trying out and for tests: anvil with a test USDC, the X402Facilitator
contract and Multicall3 on it, and ten funded accounts. The command `devnet` runs it.
"""

from facilitator.commands.devnet.anvil import AnvilError, find_anvil
from facilitator.commands.devnet.chain import Account, Devnet, DevnetOptions
from facilitator.commands.devnet.command import add_arguments, run

__all__ = [
    "Account",
    "AnvilError",
    "Devnet",
    "DevnetOptions",
    "add_arguments",
    "find_anvil",
    "run",
]
