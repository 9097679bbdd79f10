"""Calls, reverts and events of the tokens' and contracts' interfaces, by somebody else's encoder:
eth-abi, never our own code.
"""

from eth_abi.abi import encode
from eth_utils.abi import event_signature_to_log_topic, function_signature_to_4byte_selector

# EIP-3009
FIELDS = "address,address,uint256,uint256,uint256,bytes32"
SPLIT = f"transferWithAuthorization({FIELDS},uint8,bytes32,bytes32)"
WHOLE = f"transferWithAuthorization({FIELDS},bytes)"
TRANSFER = event_signature_to_log_topic("Transfer(address,address,uint256)")
AUTHORIZATION_USED = event_signature_to_log_topic("AuthorizationUsed(address,bytes32)")


def calldata(signature: str, *arguments: object) -> bytes:
    """A call by its canonical signature."""
    types = signature[signature.index("(") + 1 : -1]
    selector = bytes(function_signature_to_4byte_selector(signature))
    return selector + encode(types.split(",") if types else [], arguments)


def error_selector(signature: str) -> bytes:
    """The first 4 bytes of what a contract reverts with, as `InvalidSignature()`."""
    return bytes(function_signature_to_4byte_selector(signature))


def refusal(words: str) -> bytes:
    """What a `require` with these words reverts with."""
    return error_selector("Error(string)") + encode(["string"], [words])
