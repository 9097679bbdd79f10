// An API that costs 0.01 USDC a request, with Express and x402 version 2.
import { HTTPFacilitatorClient } from "@x402/core/server";
import { ExactEvmScheme } from "@x402/evm/exact/server";
import { paymentMiddleware, x402ResourceServer } from "@x402/express";
import express from "express";

const { FACILITATOR_URL, NETWORK, PAY_TO, ASSET, ASSET_NAME = "USD Coin", PORT = 4021 } = process.env;
if (!FACILITATOR_URL || !NETWORK || !PAY_TO || !ASSET) {
  throw new Error("set FACILITATOR_URL, NETWORK, PAY_TO and ASSET");
}

const facilitator = new HTTPFacilitatorClient({ url: FACILITATOR_URL });
const server = new x402ResourceServer(facilitator).register(NETWORK, new ExactEvmScheme());

const app = express();
app.use(
  paymentMiddleware(
    {
      "GET /report": {
        description: "The report",
        mimeType: "application/json",
        accepts: {
          scheme: "exact",
          network: NETWORK, // eip155:<chain id>
          payTo: PAY_TO,
          price: {
            amount: "10000", // atomic units: USDC has 6 decimals
            asset: ASSET,
            extra: { name: ASSET_NAME, version: "2" }, // the token's EIP-712 domain
          },
        },
      },
    },
    server,
  ),
);
app.get("/report", (request, response) => {
  response.json({ report: "sunny" });
});

const listener = app.listen(PORT, "127.0.0.1", () => {
  console.log(`listening on http://127.0.0.1:${listener.address().port}`);
});
