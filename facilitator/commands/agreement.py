"""Checks that a contract hashes payments as this program does: otherwise none of them settles."""

from facilitator.chain.client import Chain
from facilitator.domain.schemes import jeju
from facilitator.ethereum.abi import (
    Call,
    Dynamic,
    address_word,
    encode_arguments,
    selector,
    uint_word,
)

_HASH_PAYMENT = selector("hashPayment(address,address,uint256,string,string,uint256)")


async def hashes_alike(chain: Chain, chain_id: int, contract: bytes, network_name: str) -> bool:
    """Return whether hashPayment of `contract` gives our hash for a sample payment. Then the
    contract's EIP-712 domain and network name are those that payers sign. Raises ChainUnavailable.
    """
    sample = jeju.JejuPayment(
        chain_id=chain_id,
        payer=bytes(20),
        asset=b"\x01" * 20,
        pay_to=b"\x02" * 20,
        amount=3,
        valid_from=0,
        deadline=0,
        signature=b"",
        contract=contract,
        scheme="exact",
        network=network_name,
        resource="/sample",
        authorization_nonce="sample",
        timestamp=4,
    )
    arguments = encode_arguments(
        address_word(sample.asset),
        address_word(sample.pay_to),
        uint_word(sample.amount),
        Dynamic(sample.resource.encode()),
        Dynamic(sample.authorization_nonce.encode()),
        uint_word(sample.timestamp),
    )
    [hashed] = await chain.read([Call(contract, _HASH_PAYMENT + arguments)])
    return hashed == jeju.digest(sample, contract)
