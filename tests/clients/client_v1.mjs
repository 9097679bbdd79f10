// Buys what the first argument names, with x402 version 1, and tells what came of it.
import { createSigner, decodeXPaymentResponse, wrapFetchWithPayment } from "x402-fetch";

const { PAYER_PRIVATE_KEY, NETWORK } = process.env;

const signer = await createSigner(NETWORK, PAYER_PRIVATE_KEY);
const fetchWithPayment = wrapFetchWithPayment(fetch, signer, 1_000_000n);

const response = await fetchWithPayment(process.argv[2], {});
const receipt = response.headers.get("X-PAYMENT-RESPONSE");
console.log(
  JSON.stringify({
    status: response.status,
    body: await response.text(),
    receipt: receipt && decodeXPaymentResponse(receipt),
  }),
);
