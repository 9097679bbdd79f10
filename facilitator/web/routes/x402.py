"""The standard dialect's side of POST /verify and POST /settle."""

from dataclasses import dataclass

from facilitator.chain.answers import ChainUnavailable
from facilitator.dialects.detect import Body
from facilitator.dialects.x402 import encode as replies
from facilitator.dialects.x402.decode import Unreadable, Unserved, X402Request, no_json
from facilitator.domain.payment import Reason, Refusal
from facilitator.domain.schemes import AnyPayment
from facilitator.engine.requests import IdempotencyKey, SettleReply, SettleRequest
from facilitator.web.routes.dialect import (
    PENDING,
    BadRequest,
    Endpoint,
    Settlement,
    outage_reply,
)
from facilitator.web.service import Service


def read(service: Service, body: Body, endpoint: Endpoint) -> "_Request | BadRequest":
    """Decode a body of this dialect; see `dialect.Reader`."""
    decoded = no_json(body.fault) if body.members is None else service.x402.decode(body.members)
    if not isinstance(decoded, Unreadable):
        return _Request(service, decoded)
    encode = replies.verify_unreadable if endpoint == "verify" else replies.settle_unreadable
    return BadRequest(encode(decoded), 400)


@dataclass(frozen=True, slots=True)
class _Request:
    """See `dialect.PaymentRequest`."""

    service: Service
    decoded: X402Request | Unserved

    @property
    def network(self) -> str | None:
        return None if isinstance(self.decoded, Unserved) else self.decoded.served.network.name

    @property
    def scheme(self) -> str | None:
        return None if isinstance(self.decoded, Unserved) else self.decoded.requirements.scheme

    async def verify(self) -> AnyPayment | Refusal:
        decoded = self.decoded
        if isinstance(decoded, Unserved):
            return decoded.refusal
        verifier = self.service.networks[decoded.served.network.name].verifier
        return await verifier.verify_exact(decoded.payment, decoded.accepted, decoded.requirements)

    async def settlement(self, key: IdempotencyKey | None) -> Settlement | SettleReply:
        decoded = self.decoded
        if isinstance(decoded, Unserved):
            return SettleReply(refusal=decoded.refusal)
        served = self.service.networks[decoded.served.network.name]
        try:
            payment = await served.verifier.check_exact(
                decoded.payment, decoded.accepted, decoded.requirements
            )
        except ChainUnavailable as fault:
            return outage_reply(fault)
        if isinstance(payment, Refusal):
            return SettleReply(refusal=payment)
        if served.settler is None:
            return SettleReply(refusal=Refusal(Reason.SIGNER_NOT_CONFIGURED))
        return served.settler, SettleRequest(payment, "x402", key)

    def encode_verdict(self, verdict: AnyPayment | Refusal) -> bytes:
        if isinstance(verdict, Refusal):
            return replies.not_verified(self.decoded, verdict)
        assert isinstance(self.decoded, X402Request)
        return replies.verified(self.decoded)

    async def encode_reply(self, reply: SettleReply) -> bytes:
        if reply.proof is not None:
            return replies.settled(
                self.decoded, reply.proof.transaction_hash, reply.settlement_id, reply.state
            )
        return replies.not_settled(
            self.decoded,
            reply.refusal or PENDING,
            transaction_hash=reply.transaction_hash,
            settlement_id=reply.settlement_id,
            state=reply.state,
        )
