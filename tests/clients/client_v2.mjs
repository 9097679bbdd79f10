// Buys what the first argument names, with x402 version 2, and tells what came of it.
import { ExactEvmScheme } from "@x402/evm/exact/client";
import { decodePaymentResponseHeader, wrapFetchWithPaymentFromConfig } from "@x402/fetch";
import { privateKeyToAccount } from "viem/accounts";

const { PRIVATE_KEY, NETWORK, ASSET } = process.env;

const fetchWithPayment = wrapFetchWithPaymentFromConfig(fetch, {
  schemes: [{ network: NETWORK, client: new ExactEvmScheme(privateKeyToAccount(PRIVATE_KEY)) }],
  // Clients pay in tokens that they know, up to one dollar. Any other is named by its buyer.
  spendControls: {
    allowedAssets: [{ network: NETWORK, asset: ASSET, maxAmountPerPayment: "1000000" }],
  },
});

const response = await fetchWithPayment(process.argv[2]);
const receipt = response.headers.get("PAYMENT-RESPONSE");
console.log(
  JSON.stringify({
    status: response.status,
    body: await response.text(),
    receipt: receipt && decodePaymentResponseHeader(receipt),
  }),
);
