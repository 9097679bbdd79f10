"""The Jeju dialect's side of POST /verify and POST /settle, and POST /verify/signature."""

from dataclasses import dataclass

from starlette.responses import Response

from facilitator.chain.answers import ChainUnavailable
from facilitator.config.networks import Unit
from facilitator.dialects.detect import Body
from facilitator.dialects.jeju import encode as replies
from facilitator.dialects.jeju.decode import AuthParams, JejuRequest, Malformed
from facilitator.domain.payment import Reason, Refusal
from facilitator.domain.schemes import AnyPayment
from facilitator.domain.schemes.jeju import JejuPayment, recover_payer
from facilitator.domain.verification import check_time
from facilitator.engine.requests import IdempotencyKey, SettleReply, SettleRequest
from facilitator.journal.store import StoreError
from facilitator.web.replies import reply
from facilitator.web.routes.dialect import (
    PENDING,
    BadRequest,
    Endpoint,
    Settlement,
    outage_reply,
)
from facilitator.web.service import Served, Service

_AUTH_PARAMS: dict[Endpoint, AuthParams] = {
    "verify": "optional",
    "settle": "ignored",
    "settle_gasless": "required",
}
# The time is checked first: a payment with this refusal is not verified.
_OUT_OF_TIME = frozenset({Reason.IN_THE_FUTURE, Reason.EXPIRED})
# Refusals that only a payment in a token that the contract takes can get.
_ASSET_TAKEN = frozenset({Reason.INSUFFICIENT_BALANCE, Reason.INSUFFICIENT_ALLOWANCE})


def read(service: Service, body: Body, endpoint: Endpoint) -> "_Request | BadRequest":
    """Decode a body of this dialect; see `dialect.Reader`."""
    decoded = service.jeju.decode(body.members, _AUTH_PARAMS[endpoint])
    if isinstance(decoded, Malformed):
        return _bad_request(service, decoded, endpoint)
    return _Request(service, decoded)


def refuse_body(service: Service, words: str, status: int, endpoint: Endpoint) -> BadRequest:
    """Return the reply to a body that could not be read."""
    return _bad_request(service, service.jeju.refuse(words, status), endpoint)


def _bad_request(service: Service, malformed: Malformed, endpoint: Endpoint) -> BadRequest:
    encode = replies.not_verified_unread if endpoint == "verify" else replies.not_understood
    return BadRequest(encode(malformed, service.clock()), malformed.status)


def verify_signature(service: Service, body: Body) -> Response:
    """Reply who signed a payment."""
    decoded = service.jeju.decode_signed(body.members)
    if isinstance(decoded, Malformed):
        return signature_refused(decoded.words, decoded.status)
    signer: bytes | Refusal = Refusal(Reason.UNSUPPORTED_NETWORK, decoded.network)
    if decoded.served is not None:
        signer = recover_payer(decoded.payment, decoded.claimed_payer)
    if isinstance(signer, Refusal):
        return signature_refused(replies.signature_words(signer), 200)
    return reply(replies.signature_valid(decoded, signer))


def signature_refused(words: str, status: int) -> Response:
    """Reply that there is no valid signature."""
    return reply(replies.signature_invalid(words), status)


@dataclass(slots=True)
class _Request:
    """See `dialect.PaymentRequest`. `payment` is the one to settle, once it is verified."""

    service: Service
    decoded: JejuRequest
    payment: JejuPayment | None = None

    @property
    def network(self) -> str | None:
        return None if self.decoded.served is None else self.decoded.served.network.name

    @property
    def scheme(self) -> str | None:
        return self.decoded.requirements.scheme

    async def verify(self) -> AnyPayment | Refusal:
        decoded, served = self.decoded, self._served()
        if isinstance(served, Refusal):
            return check_time(decoded.payment, self.service.clock() // 1000) or served
        return await served.verifier.verify_jeju(
            decoded.payment, decoded.claimed_payer, decoded.requirements
        )

    def _served(self) -> Served | Refusal:
        """Return the payment's network. The one that the seller names must be served as well."""
        networks = self.service.networks
        for network in (self.decoded.payment.network, self.decoded.requirements.network):
            if network not in networks:
                return Refusal(Reason.UNSUPPORTED_NETWORK, network)
        return networks[self.decoded.payment.network]

    async def settlement(self, key: IdempotencyKey | None) -> Settlement | SettleReply:
        decoded, served = self.decoded, self._served()
        late = check_time(decoded.payment, self.service.clock() // 1000)
        if isinstance(served, Refusal):
            return SettleReply(refusal=late or served)
        payment = served.verifier.check_jeju(
            decoded.payment, decoded.claimed_payer, decoded.requirements
        )
        if isinstance(payment, Refusal):
            return SettleReply(refusal=late or payment)
        self.payment = payment
        if not self.service.signers:
            return await self._without_a_key()
        if served.settler is None or served.config.contract is None:
            return SettleReply(refusal=late or Refusal(Reason.CONTRACT_NOT_CONFIGURED))
        # Even where it is late: a payment that was claimed in time has an outcome to report.
        return served.settler, SettleRequest(payment, "jeju", key)

    async def _without_a_key(self) -> SettleReply:
        """Return the payment's own fault, which the payer can correct, or else that no key is
        configured.
        """
        try:
            verdict = await self.verify()
        except (ChainUnavailable, StoreError) as fault:
            return outage_reply(fault)
        unable = Refusal(Reason.SIGNER_NOT_CONFIGURED)
        return SettleReply(refusal=verdict if isinstance(verdict, Refusal) else unable)

    def encode_verdict(self, verdict: AnyPayment | Refusal) -> bytes:
        now = self.service.clock()
        if isinstance(verdict, Refusal):
            return replies.not_verified(replies.words(verdict, self.decoded), now)
        return replies.verified(verdict, now)

    async def encode_reply(self, reply: SettleReply) -> bytes:
        payment = self.payment
        reason = None if reply.refusal is None else reply.refusal.reason
        if reason in _OUT_OF_TIME and reply.transaction_hash is None:
            payment = None
        unit = None if payment is None else await self._unit(payment, reply)
        now = self.service.clock()
        if reply.proof is not None and payment is not None:
            protocol_fee = self.service.networks[payment.network].protocol_fee
            fee_bps = await protocol_fee.bps(payment.amount, reply.proof.fee)
            return replies.settled(
                self.decoded, payment, reply.proof, now, fee_bps=fee_bps, unit=unit
            )
        return replies.not_settled(
            self.decoded,
            reply.refusal or PENDING,
            now,
            payment=payment,
            unit=unit,
            transaction_hash=reply.transaction_hash,
        )

    async def _unit(self, payment: JejuPayment, reply: SettleReply) -> Unit | None:
        """Return the unit of the payment's amount, None where it is not known. Only a token that
        the contract takes is asked for it: each other that a client names would cost a call.
        """
        tokens = self.service.networks[self.decoded.requirements.network].tokens
        taken = reply.refusal is not None and reply.refusal.reason in _ASSET_TAKEN
        if taken or reply.transaction_hash is not None:
            return await tokens.unit(payment.asset)
        return tokens.recall(payment.asset)
