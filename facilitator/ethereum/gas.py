"""How much gas a transaction may use: integers, rounding spelled out.

A node estimates what a call takes, and may be wrong. What the bytes of a transaction cost, before
anything is executed, is known without a node. A gas limit below that makes a transaction that no
node accepts and no block holds, while its account nonce blocks all later ones of its signer.
"""

from facilitator.ethereum.abi import Call

TRANSACTION = 21_000  # Ethereum yellow paper, appendix G
CREATION = 32_000  # of a contract, beside that (EIP-2)
INITCODE_WORD = 2  # for each 32 bytes of creation code, the last ones rounded up (EIP-3860)
ZERO_BYTE, OTHER_BYTE = 4, 16  # of calldata (EIP-2028)
# Calldata is paid for with this much at least, whatever is executed (EIP-7623).
ZERO_BYTE_FLOOR, OTHER_BYTE_FLOOR = 10, 40
# Storage that another payment has touched since the estimate can make a call dearer.
MARGIN_PERCENT = 25


def intrinsic_gas(call: Call) -> int:
    """Return the least gas limit of a transaction with this call. What we sign has no access
    list (EIP-2930) and no authorizations (EIP-7702), which would cost more.
    """
    zeros = call.calldata.count(0)
    others = len(call.calldata) - zeros
    needed = TRANSACTION + ZERO_BYTE * zeros + OTHER_BYTE * others
    if not call.target:
        needed += CREATION + INITCODE_WORD * -(-len(call.calldata) // 32)
    return max(needed, TRANSACTION + ZERO_BYTE_FLOOR * zeros + OTHER_BYTE_FLOOR * others)


def gas_limit(call: Call, estimate: int, cap: int) -> int | None:
    """Return the gas limit of a transaction with this call, `cap` at most, given a node's estimate;
    None where `cap` does not even cover its bytes.

    An estimate that does not cover the bytes is worthless: the limit is `cap` then.
    """
    least = intrinsic_gas(call)
    if least > cap:
        return None
    if estimate < least:
        return cap
    return min(estimate + estimate * MARGIN_PERCENT // 100, cap)
