// An API that costs 0.01 USDC a request, with Express and x402 version 1.
import express from "express";
import { paymentMiddleware } from "x402-express";

const { FACILITATOR_URL, NETWORK, PAY_TO, ASSET, ASSET_NAME = "USD Coin", PORT = 4021 } = process.env;

const app = express();
app.use(
  paymentMiddleware(
    PAY_TO,
    {
      "GET /report": {
        network: NETWORK, // a name: base-sepolia
        price: {
          amount: "10000", // atomic units: USDC has 6 decimals
          asset: { address: ASSET, decimals: 6, eip712: { name: ASSET_NAME, version: "2" } },
        },
        config: { description: "The report", mimeType: "application/json" },
      },
    },
    { url: FACILITATOR_URL },
  ),
);
app.get("/report", (request, response) => {
  response.json({ report: "sunny" });
});

const listener = app.listen(PORT, "127.0.0.1", () => {
  console.log(`listening on http://127.0.0.1:${listener.address().port}`);
});
