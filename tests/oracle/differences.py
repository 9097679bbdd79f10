"""Where our answers are meant to differ from the reference facilitator's, and why."""

from typing import Final

from msgspec import Struct

from tests.oracle.reference import RAISED

VALID: Final = "valid"
SIGNATURE: Final = "invalid_exact_evm_signature"
UNVERIFIED: Final = "invalid_exact_evm_failed_to_verify_signature"
UNDEPLOYED: Final = "invalid_exact_evm_payload_undeployed_smart_wallet"
SIMULATION: Final = "invalid_exact_evm_transaction_simulation_failed"
RECIPIENT: Final = "invalid_exact_evm_recipient_mismatch"
VALUE: Final = (
    "invalid_exact_evm_authorization_value",
    "invalid_exact_evm_payload_authorization_value_mismatch",
)
VALID_AFTER: Final = "invalid_exact_evm_payload_authorization_valid_after"
VALID_BEFORE: Final = "invalid_exact_evm_payload_authorization_valid_before"
NETWORK: Final = "invalid_exact_evm_network_mismatch"
NETWORK_CONFIG: Final = "invalid_exact_evm_failed_to_get_network_config"
SCHEME: Final = "invalid_exact_evm_scheme"
DOMAIN: Final = "invalid_exact_evm_missing_eip712_domain"
NO_CONTRACT: Final = "asset_not_deployed_contract"
NO_EIP3009: Final = "invalid_exact_evm_eip3009_not_supported"
UNREADABLE: Final = "invalid_payload"
OTHER_TERMS: Final = "accepted_requirements_mismatch"


class Difference(Struct, frozen=True):
    """`cases` is a pattern of cases' names without their version; `theirs` and `ours` are the
    answers that they get, "valid" or the reason, and `count` is how many get them: one less is a
    weakness of the reference's that has become ours.
    """

    why: str
    count: int
    cases: str
    theirs: tuple[str, ...]
    ours: str


REFUSED_HERE: Final = (
    Difference(
        "an integer is a plain decimal string, not what merely reads as one",
        69,
        r"spelled: .*|typed: paymentPayload\.payload\.authorization\.validAfter 0",
        (VALID,),
        UNREADABLE,
    ),
    Difference(
        "hex begins with 0x and has nothing around it",
        14,
        r"hexadecimal: .* (with 0X|without 0x|with a space)",
        (VALID,),
        UNREADABLE,
    ),
    Difference(
        "what the payer accepted is what the seller requires",
        6,
        r"accepted: (amount|asset|payTo|extra)|typed: paymentPayload\.accepted\.extra (absent|{})",
        (VALID,),
        OTHER_TERMS,
    ),
    Difference(
        "accepted terms that cannot be read are nobody's terms",
        9,
        r"typed: paymentPayload\.accepted\.(amount|asset|payTo|maxTimeoutSeconds) .*",
        (VALID,),
        UNREADABLE,
    ),
    Difference(
        "a time to pay is a positive number",
        6,
        r"typed: paymentRequirements\.maxTimeoutSeconds (0|-1|true)",
        (VALID,),
        UNREADABLE,
    ),
    Difference(
        "a version is a number, and true is none",
        1,
        r"typed: paymentPayload\.x402Version true",
        (VALID,),
        UNREADABLE,
    ),
    Difference(
        "the seller's scheme counts, not only the payer's copy of it",
        4,
        r'later: scheme|typed: paymentRequirements\.scheme "x"',
        (VALID, SCHEME),
        "unsupported_scheme",
    ),
    Difference(
        "the seller's scheme is not empty either",
        2,
        r'typed: paymentRequirements\.scheme ""',
        (VALID, SCHEME),
        UNREADABLE,
    ),
    Difference(
        "money sent to the token or to a signer of ours is lost",
        4,
        r"asked: payment to the (signer|asset)",
        (VALID,),
        "invalid_pay_to",
    ),
    Difference(
        "the signer's own money is nobody's payment",
        2,
        r"asked: payment by the signer",
        (VALID,),
        "invalid_payer",
    ),
    Difference(
        "only listed tokens are paid in; an account without code accepts every call",
        2,
        r"asked: an asset that is no contract",
        (VALID, NO_CONTRACT),
        "unsupported_asset",
    ),
    Difference(
        "a wallet has a limit to the gas that its answer may take",
        2,
        r"wallet: that answers with huge answer",
        (VALID,),
        SIGNATURE,
    ),
)
TAKEN_HERE: Final = (
    Difference(
        "what only describes the resource decides nothing",
        55,
        r"typed: paymentPayload\.resource.*"
        r"|typed: paymentRequirements\.(resource|description|mimeType|outputSchema) .*",
        (RAISED,),
        VALID,
    ),
    Difference(
        "a time to pay may have a fraction, as in the TypeScript packages",
        3,
        r"typed: .*\.maxTimeoutSeconds 1\.5",
        (RAISED,),
        VALID,
    ),
    Difference(
        "an address in one case is an address without a checksum",
        8,
        r"hexadecimal: (from|to) in (lower case|capitals)",
        (SIMULATION,),
        VALID,
    ),
)
OTHER_REASONS: Final = (
    Difference(
        "what cannot be read is said to be that, whatever reading it all the same leads to",
        197,
        r"(typed|spelled|hexadecimal): .*",
        (
            *(SIGNATURE, UNVERIFIED, SIMULATION, RECIPIENT, *VALUE),
            *(VALID_AFTER, VALID_BEFORE, NETWORK),
        ),
        UNREADABLE,
    ),
    Difference(
        "the signature is looked at before what it signs, as in the TypeScript packages",
        6,
        r"tampered: (to|value)|hexadecimal: to zero",
        (RECIPIENT, *VALUE),
        SIGNATURE,
    ),
    Difference(
        "a signature that is not the payer's has one name, whatever its length",
        21,
        r"signature: .*|hexadecimal: signature a byte (short|long)",
        (UNVERIFIED, UNDEPLOYED, SIMULATION),
        SIGNATURE,
    ),
    Difference(
        "version 1 there leaves it to the simulation that a wallet refuses",
        10,
        r"wallet: .*",
        (SIMULATION,),
        SIGNATURE,
    ),
    Difference(
        "a wallet that is not there yet is simulated, and the simulation is what failed",
        2,
        r"wallet: undeployed, (signed by a stranger|with a call that deploys nothing)",
        (SIGNATURE,),
        SIMULATION,
    ),
    Difference(
        "a simulation that fails is traced to the token's name, as in the TypeScript packages",
        1,
        r"asked: another name of the token",
        (SIGNATURE,),
        "invalid_exact_evm_token_name_mismatch",
    ),
    Difference(
        "and to the token's version",
        1,
        r"asked: another version of the token",
        (SIGNATURE,),
        "invalid_exact_evm_token_version_mismatch",
    ),
    Difference(
        "what the payer accepted is compared as a whole",
        4,
        r"later: (amount|payTo|asset|extra)",
        (SIGNATURE, RECIPIENT, *VALUE),
        OTHER_TERMS,
    ),
    Difference(
        "a network that is not served is said to be that",
        6,
        r"(asked|later|typed): .*network.*",
        (SIGNATURE, NETWORK, NETWORK_CONFIG),
        "invalid_network",
    ),
    Difference(
        "a token that is not listed is not asked anything",
        5,
        r"(asked|later|hexadecimal): .*asset.*",
        (SIGNATURE, NO_EIP3009, NO_CONTRACT),
        "unsupported_asset",
    ),
    Difference(
        "an empty name or version is none",
        12,
        r'typed: .*\.extra\.(name|version) (""|null)',
        (SIGNATURE, UNVERIFIED),
        DOMAIN,
    ),
)
DIFFERENCES: Final = REFUSED_HERE + TAKEN_HERE + OTHER_REASONS
