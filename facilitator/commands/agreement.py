"""Checks that a contract hashes payments as this program does: otherwise none of them settles."""

from eth_abi.abi import encode

from facilitator.chain.client import Chain
from facilitator.domain.schemes import jeju
from facilitator.ethereum.abi import selector
from facilitator.ethereum.transactions import Call

_HASH_PAYMENT = selector("hashPayment(address,address,uint256,string,string,uint256)")


async def hashes_alike(chain: Chain, chain_id: int, contract: bytes, network_name: str) -> bool:
    """Return whether the contract's hashPayment of a sample equals ours: then its EIP-712 domain
    and its network name are those that payers sign. Raises ChainUnavailable.
    """
    sample = _sample(chain_id, contract, network_name)
    [hashed] = await chain.read([_hash_call(sample)])
    return hashed == jeju.digest(sample, contract)


def _sample(chain_id: int, contract: bytes, network_name: str) -> jeju.JejuPayment:
    """Return a payment to hash; nobody has signed it."""
    return jeju.JejuPayment(
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


def _hash_call(payment: jeju.JejuPayment) -> Call:
    arguments = encode(
        ["address", "address", "uint256", "string", "string", "uint256"],
        [
            payment.asset,
            payment.pay_to,
            payment.amount,
            payment.resource,
            payment.authorization_nonce,
            payment.timestamp,
        ],
    )
    return Call(payment.contract, _HASH_PAYMENT + arguments)
