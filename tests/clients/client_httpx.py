"""Buys what the first argument names, with httpx and x402, and tells what came of it."""

import asyncio
import json
import os
import sys

from eth_account import Account
from x402 import x402Client
from x402.http import decode_payment_response_header
from x402.http.clients import x402HttpxClient
from x402.mechanisms.evm.exact import register_exact_evm_client


async def main(url: str) -> None:
    client = x402Client()
    register_exact_evm_client(client, Account.from_key(os.environ["PRIVATE_KEY"]))
    # Clients pay in tokens that they know, up to one dollar. Any other is named by its buyer.
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
    told = decode_payment_response_header(receipt).model_dump(by_alias=True) if receipt else None
    print(json.dumps({"status": response.status_code, "body": response.text, "receipt": told}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
