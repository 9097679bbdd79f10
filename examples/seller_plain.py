"""An API that costs 0.01 USDC a request, without any x402 package: it is HTTP and JSON."""

import base64
import json
import os
import sys
import time
import uuid
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

NEEDED = ("FACILITATOR_URL", "NETWORK", "ASSET", "PAY_TO")
if unset := [name for name in NEEDED if not os.environ.get(name)]:
    sys.exit(f"error: set {', '.join(unset)}")
FACILITATOR_URL = os.environ["FACILITATOR_URL"]
ATTEMPTS = 5
TERMS = {
    "scheme": "exact",
    "network": os.environ["NETWORK"],  # eip155:<chain id>
    "amount": "10000",  # atomic units: USDC has 6 decimals
    "asset": os.environ["ASSET"],
    "payTo": os.environ["PAY_TO"],
    "maxTimeoutSeconds": 300,
    # the token's EIP-712 domain
    "extra": {"name": os.environ.get("ASSET_NAME", "USD Coin"), "version": "2"},
}


class NoAnswer(Exception):
    """Neither yes nor no came from the facilitator. The payment may have been made."""


def ask(path: str, payment: object) -> dict[str, Any]:
    """Return the final answer of POST /verify or POST /settle. Raise NoAnswer if none comes.

    All attempts carry one idempotency key, so a reply that was lost on the way is sent again.
    Without that key, a second POST /settle is refused as "nonce already used" after a lost success.
    """
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    body = {"x402Version": 2, "paymentPayload": payment, "paymentRequirements": TERMS}
    for _ in range(ATTEMPTS):
        try:
            reply = httpx.post(FACILITATOR_URL + path, json=body, headers=headers, timeout=90)
        except httpx.TransportError:
            time.sleep(1)
            continue
        answer: dict[str, Any] = reply.json()
        if reply.status_code in (200, 400) and answer.get("errorReason") != "settlement_pending":
            return answer
        time.sleep(1)  # 429 and 503 carry a Retry-After, which this short program ignores
    raise NoAnswer


class Shop(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path != "/report":
            return self.answer(404, {"error": "not found"})
        header = self.headers.get("PAYMENT-SIGNATURE")
        if header is None:
            return self.charge("PAYMENT-SIGNATURE header is required")
        try:
            payment = json.loads(base64.b64decode(header))
        except ValueError:
            return self.charge("the payment cannot be read")
        try:
            verdict = ask("/verify", payment)
            if not verdict["isValid"]:
                return self.charge(verdict["invalidReason"])
            report = {"report": "sunny"}  # the work is done, and kept until the money has come
            outcome = ask("/settle", payment)
        except NoAnswer:
            return self.answer(503, {"error": "payments are not possible at the moment"})
        if not outcome["success"]:
            return self.charge(outcome["errorReason"])
        return self.answer(200, report, {"PAYMENT-RESPONSE": encode(outcome)})

    def charge(self, error: str) -> None:
        resource = {"url": f"http://{self.headers['Host']}/report", "description": "The report"}
        asked = {"x402Version": 2, "error": error, "resource": resource, "accepts": [TERMS]}
        self.answer(402, {"error": error}, {"PAYMENT-REQUIRED": encode(asked)})

    def answer(self, status: int, body: object, headers: Mapping[str, str] | None = None) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


def encode(message: object) -> str:
    """Encode a message for a header of x402: base64 of JSON."""
    return base64.b64encode(json.dumps(message).encode()).decode()


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "4021"))), Shop)
    print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
