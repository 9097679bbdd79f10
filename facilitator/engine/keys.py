"""The private keys of one chain. Nothing else signs."""

from collections.abc import Callable, Iterable

from facilitator.domain.budget import Prepared
from facilitator.domain.settlement import Attempt, Policy, Transaction
from facilitator.ethereum.fees import Fees, outbidding_fees
from facilitator.ethereum.secp256k1 import Signer
from facilitator.ethereum.transactions import Call, TransactionBuilder
from facilitator.telemetry.tracing import span


class Keys:
    """The keys by the address of their account. `clock` is in unix milliseconds. Its methods raise
    KeyError for an account whose key is not here.
    """

    def __init__(
        self,
        signers: Iterable[Signer],
        *,
        builder: TransactionBuilder,
        chain_id: int,
        policy: Policy,
        clock: Callable[[], int],
    ) -> None:
        self._signers = {signer.address: signer for signer in signers}
        self._builder = builder
        self._chain_id = chain_id
        self._policy = policy
        self._clock = clock

    def allows(self, call: Call, address: bytes) -> bool:
        """Whether this account may sign the call; not where its contract is configured no more, and
        not where its key is another replica's.
        """
        return address in self._signers and self._builder.allows(call, address)

    def sign(
        self, address: bytes, account_nonce: int, call: Call, gas_limit: int, fees: Fees
    ) -> Attempt:
        """The bytes that pay `fees` for the call, and for `gas_limit` gas at most."""
        with span("sign", chain_id=self._chain_id, account_nonce=account_nonce):
            signed = self._builder.sign(
                self._signers[address],
                account_nonce=account_nonce,
                call=call,
                gas_limit=gas_limit,
                fees=fees,
            )
        return Attempt(hash=signed.hash, raw=signed.raw, fees=fees, signed_at=self._clock())

    def replacement(self, transaction: Transaction, fees: Fees) -> Attempt:
        """The same transaction with other fees."""
        return self.sign(
            transaction.signer,
            transaction.account_nonce,
            transaction.call,
            transaction.gas_limit,
            fees,
        )

    def outbidding(
        self, call: Call, address: bytes, account_nonce: int, prepared: Prepared
    ) -> Callable[[Attempt], Attempt]:
        """What signs the call so that pools take it for another attempt of that account nonce."""

        def sign(last: Attempt) -> Attempt:
            fees = outbidding_fees(last.fees, prepared.fees, self._policy.max_fee_per_gas)
            return self.sign(address, account_nonce, call, prepared.gas_limit, fees)

        return sign
