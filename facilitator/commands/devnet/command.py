"""The command `devnet`: run the embedded chain in the foreground, and print how to use it."""

import argparse
import asyncio
import signal
from pathlib import Path
from typing import Final

import msgspec

from facilitator.chain.answers import to_hex
from facilitator.commands.devnet.anvil import AnvilError
from facilitator.commands.devnet.chain import USDC_EACH, Devnet, DevnetOptions
from facilitator.commands.options import whole_number
from facilitator.config.networks import NETWORKS
from facilitator.ethereum.addresses import checksum

WARNING: Final = "the accounts' keys are public: never send them anything of value"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command `devnet`."""
    parser.add_argument(
        "--network",
        choices=list(NETWORKS),
        default="jeju",
        help="name that payments are signed for and that the printed variables carry "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--chain-id",
        type=whole_number(1, 2**53 - 1),
        metavar="ID",
        help="chain id (default: the network's own; 420691 for jeju)",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: %(default)s; anybody who can reach it owns the chain)",
    )
    parser.add_argument(
        "--port",
        type=whole_number(0, 65_535),
        default=9545,
        help="port to listen on, 0 for any free one (default: %(default)s)",
    )
    mining = parser.add_mutually_exclusive_group()
    mining.add_argument(
        "--block-time",
        type=whole_number(1, 3_600),
        default=1,
        metavar="SECONDS",
        help="seconds between blocks (default: %(default)s)",
    )
    mining.add_argument(
        "--automine",
        action="store_true",
        help="mine every transaction at once, and no block without one",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object, the accounts' private keys included, instead of text",
    )
    parser.add_argument(
        "--anvil",
        type=Path,
        metavar="PATH",
        help="anvil to run (default: the one on PATH if it is 1.5 or newer, else the pinned one in "
        "the folder .tools of the current folder, installed there with npm where it is missing)",
    )


async def run(options: argparse.Namespace) -> int:
    """Run the chain until SIGINT or SIGTERM and return 0. Raises AnvilError if it ends itself.

    Standard output gets shell text (comments and `export` lines) or one JSON object, once the chain
    is ready.
    """
    loop = asyncio.get_running_loop()
    serving = loop.create_task(_serve(options))

    def stop() -> None:
        if not serving.cancelling():  # a second Ctrl-C must not cut the ending short
            serving.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    try:
        return await serving
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise  # not a signal: our caller cancelled us
        return 0
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


async def _serve(arguments: argparse.Namespace) -> int:
    options = DevnetOptions(
        chain_id=arguments.chain_id or NETWORKS[arguments.network].chain_id,
        host=arguments.host,
        port=arguments.port,
        block_time=None if arguments.automine else arguments.block_time,
        network_name=arguments.network,
        anvil=arguments.anvil,
    )
    async with Devnet.start(options) as devnet:
        text = _as_json(devnet) if arguments.json else _as_shell(devnet, options)
        print(text, flush=True)
        code = await devnet.ended()
    raise AnvilError(f"anvil ended by itself (exit {code})")


def _as_shell(devnet: Devnet, options: DevnetOptions) -> str:
    pace = (
        "mined at once" if options.block_time is None else f"a block every {options.block_time} s"
    )
    header = [
        f"{devnet.network_name}, chain id {devnet.chain_id}, {pace}: {devnet.url}",
        "",
        f"X402Facilitator  {checksum(devnet.contract)}",
        f"USDC             {checksum(devnet.usdc)}",
        f"Multicall3       {checksum(devnet.multicall3)}",
        "",
        f"{len(devnet.accounts)} accounts with {USDC_EACH // 10**6:,} USDC each, and ETH;",
        WARNING,
    ]
    header += [
        f"{index:>2}  {checksum(account.address)}  {account.role}"
        for index, account in enumerate(devnet.accounts)
    ]
    lines = [f"# {line}".rstrip() for line in header]
    lines += [f"export {name}={value}" for name, value in devnet.environment().items()]
    return "\n".join(lines)


def _as_json(devnet: Devnet) -> str:
    description = {
        "url": devnet.url,
        "chainId": devnet.chain_id,
        "network": devnet.network_name,
        "contracts": {
            "X402Facilitator": checksum(devnet.contract),
            "USDC": checksum(devnet.usdc),
            "Multicall3": checksum(devnet.multicall3),
        },
        "warning": WARNING,
        "accounts": [
            {
                "role": account.role,
                "address": checksum(account.address),
                "privateKey": to_hex(account.key),
            }
            for account in devnet.accounts
        ],
        "environment": devnet.environment(),
    }
    return msgspec.json.encode(description).decode()
