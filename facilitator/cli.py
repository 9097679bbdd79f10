"""The command line: `facilitator serve`, `facilitator devnet`."""

import argparse
import asyncio
import importlib.util
import signal
import sys
from collections.abc import Sequence
from types import FrameType

# What each of these does in C, a pure Python stand-in would do many times slower: a service that
# started on one would look healthy and fall over under load.
NATIVE_PACKAGES = {
    "coincurve": "libsecp256k1, for signatures",
    "sha3": "Keccak-256 (the package safe-pysha3)",
}
# Commands that run until they are told to end, and then exit 0.
ENDED_BY_SIGNAL = ("serve", "devnet")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is 0 when done, 1 when it failed, 2 for bad usage."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in ENDED_BY_SIGNAL:
        # The imports below take a second, and the loop that handles signals comes after them.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _end)
    for package, purpose in NATIVE_PACKAGES.items():
        if importlib.util.find_spec(package) is None:
            print(f"error: {package} is not installed: it brings {purpose}", file=sys.stderr)
            return 1
    # Only now: these import the packages that were looked for.
    from facilitator import __version__, check, devnet, server  # noqa: PLC0415

    parser = argparse.ArgumentParser(
        prog="facilitator",
        description="An x402 payment facilitator: verifies signed payments and settles them.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serve = commands.add_parser(
        "serve",
        help="run the service",
        description="Run the service until SIGTERM or SIGINT. It is configured by environment"
        " variables alone; the README lists them.",
    )
    serve.set_defaults(run=server.run)
    chain = commands.add_parser(
        "devnet",
        help="run a chain of your own to try things out",
        description="Run anvil with the contracts deployed and ten funded accounts, until SIGTERM"
        " or SIGINT, and print the environment that the service needs for it.",
    )
    devnet.add_arguments(chain)
    chain.set_defaults(run=devnet.run)
    checking = commands.add_parser(
        "check",
        help="see whether everything is in place to settle",
        description="Check node, chain id, contract, what it hashes, fee, token, signers' gas money"
        " and journal, as the environment configures them: one line a check, exit code 1 if any"
        " fails.",
    )
    check.add_arguments(checking)
    checking.set_defaults(run=check.run)
    options = parser.parse_args(arguments)
    code: int = asyncio.run(options.run(options))
    return code


def _end(number: int, frame: FrameType | None) -> None:
    """Nothing has begun yet that would have to be brought to an end."""
    sys.exit(0)
