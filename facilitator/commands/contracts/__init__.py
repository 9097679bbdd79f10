"""The contracts: Solidity sources, and the compiled artifacts that deploying them needs.

The artifacts are committed, so that running the service needs no compiler. `make contracts`
rebuilds them.
"""

from importlib import resources
from typing import Any

import msgspec
from eth_abi.abi import encode


class Artifact(msgspec.Struct, frozen=True):
    """A compiled contract: the ABI as JSON's objects, creation and runtime code as bytes.

    The runtime code of a contract with immutable values has zeros in their places.
    """

    abi: tuple[dict[str, Any], ...]
    bytecode: bytes
    deployed_bytecode: bytes


class _Written(msgspec.Struct, rename="camel"):
    """The members of an artifact's file that are needed here; the code is 0x-prefixed hex."""

    abi: tuple[dict[str, Any], ...]
    bytecode: str
    deployed_bytecode: str


def parse(text: bytes) -> Artifact:
    """Read an artifact as `build.mjs` writes it. Raises ValueError where it is not one."""
    written = msgspec.json.decode(text, type=_Written)
    return Artifact(
        abi=written.abi,
        bytecode=bytes.fromhex(written.bytecode.removeprefix("0x")),
        deployed_bytecode=bytes.fromhex(written.deployed_bytecode.removeprefix("0x")),
    )


def load(name: str) -> Artifact:
    """Load the artifact of our contract `name`. Raises FileNotFoundError where there is none."""
    return parse(resources.files(__name__).joinpath(f"{name}.json").read_bytes())


def creation_code(artifact: Artifact, *arguments: object) -> bytes:
    """Return the data of a transaction that creates the contract with these constructor arguments,
    in which addresses are bytes.
    """
    constructors = [entry for entry in artifact.abi if entry["type"] == "constructor"]
    types = [value["type"] for entry in constructors for value in entry["inputs"]]
    return artifact.bytecode + encode(types, arguments)
