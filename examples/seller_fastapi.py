"""An API that costs 0.01 USDC a request, with FastAPI and x402 version 2."""

import os
import sys

import uvicorn
from fastapi import FastAPI
from x402 import AssetAmount, x402ResourceServer
from x402.http import FacilitatorConfig, HTTPFacilitatorClient, PaymentOption, RouteConfig
from x402.http.middleware.fastapi import PaymentMiddlewareASGI
from x402.mechanisms.evm.exact import register_exact_evm_server

NEEDED = ("FACILITATOR_URL", "NETWORK", "ASSET", "PAY_TO")
if unset := [name for name in NEEDED if not os.environ.get(name)]:
    sys.exit(f"error: set {', '.join(unset)}")
NETWORK = os.environ["NETWORK"]  # eip155:<chain id>

facilitator = HTTPFacilitatorClient(FacilitatorConfig(url=os.environ["FACILITATOR_URL"]))
server = register_exact_evm_server(x402ResourceServer(facilitator), NETWORK)

price = AssetAmount(
    amount="10000",  # atomic units: USDC has 6 decimals
    asset=os.environ["ASSET"],
    # the token's EIP-712 domain
    extra={"name": os.environ.get("ASSET_NAME", "USD Coin"), "version": "2"},
)
option = PaymentOption(scheme="exact", network=NETWORK, pay_to=os.environ["PAY_TO"], price=price)
routes = {
    "GET /report": RouteConfig(
        accepts=option, description="The report", mime_type="application/json"
    )
}

app = FastAPI()
app.add_middleware(PaymentMiddlewareASGI, routes=routes, server=server)


@app.get("/report")
async def report() -> dict[str, str]:
    return {"report": "sunny"}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ.get("PORT", "4021")))
