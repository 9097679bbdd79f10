"""The facilitator of the official Python SDK, as an oracle: what does it say about a payment?"""

from typing import Any, Final

from msgspec import Struct
from x402 import x402FacilitatorSync
from x402.mechanisms.evm.exact import register_exact_evm_facilitator
from x402.mechanisms.evm.signers import FacilitatorWeb3Signer
from x402.schemas import PaymentRequirements, PaymentRequirementsV1, parse_payment_payload

# It refused by an exception: the servers around it answer 422 or 500, without a reason.
RAISED: Final = "(raised)"

# Its words where they are not the TypeScript SDK's for the same refusal.
WORDS: Final = {
    "invalid_exact_evm_payload_signature": "invalid_exact_evm_signature",
    "invalid_exact_evm_payload_recipient_mismatch": "invalid_exact_evm_recipient_mismatch",
    "unsupported_scheme": "invalid_exact_evm_scheme",
    "network_mismatch": "invalid_exact_evm_network_mismatch",
    "missing_eip712_domain": "invalid_exact_evm_missing_eip712_domain",
}
WORDS_V1: Final = {
    "invalid_exact_evm_payload_authorization_value_mismatch": (
        "invalid_exact_evm_authorization_value"
    ),
}


class Verdict(Struct, frozen=True):
    """`reason` is "" for a valid payment."""

    is_valid: bool
    reason: str

    def __str__(self) -> str:
        return "valid" if self.is_valid else self.reason


class Reference:
    """One chain, one network, both versions; `factories` of smart wallets are allowed. It calls the
    node by itself and blocks meanwhile.
    """

    def __init__(self, rpc_url: str, key: bytes, network: str, factories: list[str]) -> None:
        self._facilitator = x402FacilitatorSync()
        signer = FacilitatorWeb3Signer(private_key="0x" + key.hex(), rpc_url=rpc_url)
        # version 1 is served on every network that the SDK knows by name
        register_exact_evm_facilitator(
            self._facilitator, signer, networks=[network], eip6492_allowed_factories=factories
        )

    def verify(self, body: Any) -> Verdict:
        """What a server around it would find in the body of POST /verify."""
        try:
            payload = parse_payment_payload(body["paymentPayload"])
            asked = body["paymentRequirements"]
            requirements: PaymentRequirements | PaymentRequirementsV1
            if payload.x402_version == 1:
                requirements = PaymentRequirementsV1.model_validate(asked)
            else:
                requirements = PaymentRequirements.model_validate(asked)
            said = self._facilitator.verify(payload, requirements)
        except Exception:  # whatever it raises for what it was not made for
            return Verdict(False, RAISED)
        if said.is_valid:
            return Verdict(True, "")
        reason = said.invalid_reason or ""
        if payload.x402_version == 1:
            reason = WORDS_V1.get(reason, reason)
        return Verdict(False, WORDS.get(reason, reason))
