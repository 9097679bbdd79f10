"""A payment as an official client makes it, where the package x402 is installed."""

from typing import Any

from eth_account import Account


async def official_payment(
    key: bytes, requirements: dict[str, Any], resource: str
) -> dict[str, Any] | None:
    """Return the payload that the client of the package x402 signs with `key` for a seller's
    `requirements` and a `resource` (a URL), as JSON of version 2. None without the package.
    """
    try:
        from x402 import x402Client  # noqa: PLC0415 - not needed to run the service
        from x402.mechanisms.evm.exact import register_exact_evm_client  # noqa: PLC0415
        from x402.schemas import PaymentRequired  # noqa: PLC0415
    except ImportError:
        return None
    client = register_exact_evm_client(x402Client(), Account.from_key(key))
    # It pays in tokens that it knows, up to one dollar. Any other is named by its buyer.
    client.set_spend_controls(
        {
            "allowed_assets": [
                {
                    "network": requirements["network"],
                    "asset": requirements["asset"],
                    "max_amount_per_payment": requirements["amount"],
                }
            ]
        }
    )
    required = PaymentRequired.model_validate(
        {"x402Version": 2, "resource": {"url": resource}, "accepts": [requirements]}
    )
    payment = await client.create_payment_payload(required)
    return payment.model_dump(by_alias=True, exclude_none=True)
