"""Buy what the URL in the first argument offers, and print status, body and receipt."""

import asyncio
import json
import os
import sys

from eth_account import Account
from x402 import x402Client
from x402.http import decode_payment_response_header
from x402.http.clients import x402HttpxClient
from x402.mechanisms.evm.exact import register_exact_evm_client

NEEDED = ("PAYER_PRIVATE_KEY", "NETWORK", "ASSET")
if unset := [name for name in NEEDED if not os.environ.get(name)]:
    sys.exit(f"error: set {', '.join(unset)}")


async def main(url: str) -> None:
    client = x402Client()
    register_exact_evm_client(client, Account.from_key(os.environ["PAYER_PRIVATE_KEY"]))
    # The package pays in tokens that it knows, up to one dollar. Any other must be allowed here.
    client.set_spend_controls(
        {
            "allowed_assets": [
                {
                    "network": os.environ["NETWORK"],
                    "asset": os.environ["ASSET"],
                    "max_amount_per_payment": "1000000",
                }
            ]
        }
    )
    async with x402HttpxClient(client, timeout=90) as http:
        response = await http.get(url)
    headers = response.headers
    receipt = headers.get("PAYMENT-RESPONSE") or headers.get("X-PAYMENT-RESPONSE")
    shown = decode_payment_response_header(receipt).model_dump(by_alias=True) if receipt else None
    print(json.dumps({"status": response.status_code, "body": response.text, "receipt": shown}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
