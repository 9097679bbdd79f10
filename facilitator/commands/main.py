"""The command line: `facilitator` and its commands, `serve` and those around it."""

import argparse
import asyncio
import importlib.util
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType, ModuleType

# Packages written in C. Their stand-ins in pure Python are many times slower: a service that
# started on one would look healthy and fail under load.
NATIVE_PACKAGES = {
    "coincurve": "libsecp256k1, for signatures",
    "sha3": "Keccak-256 (the package safe-pysha3)",
}
# Commands that run until a signal ends them, and then exit 0.
ENDED_BY_SIGNAL = ("serve", "devnet")

INTERRUPTED = 130  # what a shell calls a command that Ctrl-C ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Return the exit code: 0 when done, 1 when it failed, 2 for a wrong option or
    setting.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in ENDED_BY_SIGNAL:
        # The imports below take a second; the event loop, which then handles signals, starts later.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _end)
    for package, purpose in NATIVE_PACKAGES.items():
        if importlib.util.find_spec(package) is None:
            print(f"error: {package} is not installed: it brings {purpose}", file=sys.stderr)
            return 1
    # Only now: these import the packages that were looked for.
    from facilitator import __version__  # noqa: PLC0415
    from facilitator.chain.answers import ChainUnavailable  # noqa: PLC0415
    from facilitator.commands import check, deploy, devnet, migrate, pay, recover  # noqa: PLC0415
    from facilitator.commands.sending import JobFailed  # noqa: PLC0415
    from facilitator.config.settings import ConfigError  # noqa: PLC0415
    from facilitator.journal.store import StoreError  # noqa: PLC0415
    from facilitator.web import server  # noqa: PLC0415

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
        " variables, and by the file that FACILITATOR_CONFIG names: docs/configuration.md.",
    )
    serve.set_defaults(run=lambda _: server.run(), loop_factory=server.new_event_loop)

    def add(module: ModuleType, help: str, description: str) -> None:
        name = module.__name__.rpartition(".")[2]
        command = commands.add_parser(name, help=help, description=description)
        module.add_arguments(command)
        command.set_defaults(run=module.run)

    add(
        devnet,
        help="run a chain of your own to try things out",
        description="Run anvil with the contracts deployed and ten funded accounts, until SIGTERM"
        " or SIGINT, and print the environment that the service needs for it.",
    )
    add(
        check,
        help="see whether everything is in place to settle",
        description="Check node, chain id, contract, what it hashes, fee, tokens, factories of"
        " smart wallets, signers' gas money and journal, as the environment configures them: one"
        " line a check, exit code 1 if any fails.",
    )
    add(
        migrate,
        help="bring the journal's tables up to date",
        description="Bring the tables of the journal that DATABASE_URL names up to date, and say"
        " what was done. `serve` does the same when it starts; in PostgreSQL, replicas of the"
        " version before go on meanwhile. With --from, move a journal from SQLite; with --reopen,"
        " take that file into use again. Exit code 1 where it cannot be done.",
    )
    add(
        deploy,
        help="deploy the contract to a network",
        description="Deploy X402Facilitator to a network with the first key that stays of"
        " FACILITATOR_PRIVATE_KEY, wait until it is there, and print the setting that names it to"
        " the service. Progress goes to standard error. Not while a service settles on that"
        " network with the same key. Exit code 1 where it is not in place, 2 for a wrong setting.",
    )
    add(
        pay,
        help="make a payment, to try things out",
        description="Sign a payment with the key in PAYER_PRIVATE_KEY, ask a facilitator to verify"
        " and then to settle it, as a seller does, and print its last reply as JSON. Progress goes"
        " to standard error. Exit code 0 only where the reply says isValid or success, 1 where it"
        " does not or where there is none, 2 for a wrong setting. The network, its contract and its"
        " token come from the same environment as the service's.",
    )
    add(
        recover,
        help="after the journal was restored from a backup",
        description="Mark every payment in a restored journal that could still end in success as"
        " told already: what the life after the backup has told is not in it. Such payments are"
        " still settled; who asks for one hears that its nonce was used, with the transaction's"
        " hash. Run it before the service starts: where one uses the journal, it changes nothing."
        " Exit code 1 then, and where the journal cannot be opened.",
    )
    options = parser.parse_args(arguments)
    try:
        with asyncio.Runner(loop_factory=getattr(options, "loop_factory", None)) as runner:
            code: int = runner.run(options.run(options))
        sys.stdout.flush()
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (JobFailed, ChainUnavailable, StoreError, devnet.AnvilError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has closed the pipe, as `head` does; without this, the flush at exit fails too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def _end(number: int, frame: FrameType | None) -> None:
    """Exit at once: nothing has begun yet that would need an orderly end."""
    sys.exit(0)
