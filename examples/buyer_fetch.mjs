// Buys what the URL in the first argument offers; prints status, body and receipt.
import { ExactEvmScheme } from "@x402/evm/exact/client";
import { decodePaymentResponseHeader, wrapFetchWithPaymentFromConfig } from "@x402/fetch";
import { privateKeyToAccount } from "viem/accounts";

const { PAYER_PRIVATE_KEY, NETWORK, ASSET } = process.env;
if (!PAYER_PRIVATE_KEY || !NETWORK || !ASSET) {
  throw new Error("set PAYER_PRIVATE_KEY, NETWORK and ASSET");
}

const fetchWithPayment = wrapFetchWithPaymentFromConfig(fetch, {
  schemes: [{ network: NETWORK, client: new ExactEvmScheme(privateKeyToAccount(PAYER_PRIVATE_KEY)) }],
  // The package pays in tokens that it knows, up to one dollar. Any other must be allowed here.
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
