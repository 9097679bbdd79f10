"""What each alert is for, as series that make it fire and series that are close to it and must not.

promtool's notation: `0+60x10` starts at 0 and grows by 60, ten more times, a sample a minute.
"""

from typing import Final, NamedTuple


class Case(NamedTuple):
    """`series` by name and labels (job is added); whether the alert fires, minute by minute."""

    alert: str
    series: dict[str, str]
    fires: dict[int, bool]


SETTLE = 'http_requests_total{route="/settle",status="%s"}'
HEALTH = 'http_requests_total{route="/health",status="200"}'
BALANCE = 'facilitator_signer_balance_wei{network="base",signer="0xA"}'
COST = 'facilitator_settlement_cost_wei{network="base"}'
VALID = 'facilitator_verifications_total{network="base",outcome="valid"}'
REFUSED = 'facilitator_verifications_total{network="base",outcome="refused"}'
SUCCESS = 'facilitator_settlements_total{network="base",outcome="success"}'
FAILURE = 'facilitator_settlements_total{network="base",outcome="failed"}'
ENDPOINT = 'facilitator_rpc_endpoint_up{network="base",endpoint="base#%d"}'
OLDEST = 'facilitator_oldest_pending_seconds{network="base"}'
GAP = 'facilitator_signer_nonce_gap{network="base",signer="0xA"}'
PAUSED = 'facilitator_signer_paused{network="base",signer="%s",instance="%s"}'
SUPERSEDED = 'facilitator_superseded_total{network="base"}'
AT_CAP = 'facilitator_stuck_at_fee_cap{network="base",instance="%s"}'
HEAD = 'facilitator_head_age_seconds{network="base",instance="%s"}'
REORGS = 'facilitator_reorgs_total{network="base"}'
STORE = 'facilitator_store_errors_total{operation="claim",instance="a"}'
DEPTH = 'facilitator_queue_depth{network="base",instance="a"}'
LIMIT = 'facilitator_queue_limit{network="base",instance="a"}'

CASES: Final = [
    # --- down: answers no scrape, or is unknown; one replica of two is not "down"
    Case("FacilitatorDown", {'up{instance="a"}': "1x4 0x10"}, {4: False, 5: False, 6: True}),
    Case("FacilitatorDown", {}, {0: False, 1: True}),
    Case("FacilitatorDown", {'up{instance="a"}': "0x20", 'up{instance="b"}': "1x20"}, {15: False}),
    # --- errors: a ratio, not a number a second; probes do not thin it out
    Case(
        "FacilitatorHighErrorRate",
        {SETTLE % "200": "0+80x20", SETTLE % "503": "0+20x20", HEALTH: "0+1000x20"},
        {4: False, 7: True},
    ),
    Case(
        "FacilitatorHighErrorRate",
        {SETTLE % "200": "0+9200x20", SETTLE % "503": "0+800x20"},
        {15: False},
    ),
    Case(
        "FacilitatorHighErrorRate",
        {SETTLE % "200": "0+80x20", SETTLE % "400": "0+90x20"},
        {15: False},
    ),
    Case("FacilitatorHighErrorRate", {SETTLE % "503": "0+2x20"}, {7: True}),
    # --- stuck
    Case("FacilitatorSettlementsStuck", {OLDEST: "0+60x20"}, {10: False, 13: True}),
    Case("FacilitatorSettlementsStuck", {OLDEST: "600x20"}, {15: False}),
    # --- gas money, in settlements that it pays for
    Case("FacilitatorSignerLow", {BALANCE: "99e15x20", COST: "1e15x20"}, {4: False, 6: True}),
    Case("FacilitatorSignerLow", {BALANCE: "100e15x20", COST: "1e15x20"}, {15: False}),
    Case("FacilitatorSignerLow", {BALANCE: "150e15x20", COST: "1e15x4 2e15x20"}, {11: True}),
    Case("FacilitatorSignerEmpty", {BALANCE: "9e14x20", COST: "1e15x20"}, {0: False, 2: True}),
    Case("FacilitatorSignerEmpty", {BALANCE: "1e15x20", COST: "1e15x20"}, {15: False}),
    # --- nonce gap: one that is filled at once is none
    Case("FacilitatorNonceGap", {GAP: "0x2 1x20"}, {3: False, 6: False, 9: True}),
    Case("FacilitatorNonceGap", {GAP: "0x2 1x3 0x20"}, {15: False}),
    # --- paused: by endpoints that go on disagreeing, of any signer and in any replica
    Case("FacilitatorSignerPaused", {PAUSED % ("0xA", "a"): "0x2 1x20"}, {4: False, 5: True}),
    Case("FacilitatorSignerPaused", {PAUSED % ("0xA", "a"): "0x2 1x1 0x20"}, {15: False}),
    Case(
        "FacilitatorSignerPaused",
        {PAUSED % ("0xA", "a"): "0x20", PAUSED % ("0xB", "b"): "0x2 1x20"},
        {1: False, 6: True},
    ),
    # --- superseded: once is enough; what was there at the start is not news
    Case("FacilitatorSuperseded", {SUPERSEDED: "0x5 1x30"}, {4: False, 7: True, 30: False}),
    Case("FacilitatorSuperseded", {SUPERSEDED: "7x30"}, {16: False}),
    # --- the cap: whichever replica watches the chain; not for a spike that passes
    Case(
        "FacilitatorStuckAtFeeCap",
        {AT_CAP % "a": "0x20", AT_CAP % "b": "0x2 3x20"},
        {4: False, 5: True},
    ),
    Case("FacilitatorStuckAtFeeCap", {AT_CAP % "a": "0x2 1x1 0x20"}, {15: False}),
    # --- RPC: all of a network's, not one
    Case(
        "FacilitatorAllRpcDown",
        {ENDPOINT % 1: "1x3 0x20", ENDPOINT % 2: "0x20"},
        {3: False, 4: False, 6: True},
    ),
    Case("FacilitatorAllRpcDown", {ENDPOINT % 1: "0x20", ENDPOINT % 2: "1x20"}, {15: False}),
    # --- head: the replica that sees furthest counts
    Case("FacilitatorHeadLag", {HEAD % "a": "0+60x20"}, {4: False, 6: True}),
    Case("FacilitatorHeadLag", {HEAD % "a": "0+60x20", HEAD % "b": "2x20"}, {15: False}),
    Case("FacilitatorHeadLag", {HEAD % "a": "120x20"}, {15: False}),
    # --- what must never happen
    Case("FacilitatorReorg", {REORGS: "0x5 1x30"}, {4: False, 7: True, 30: False}),
    Case("FacilitatorReorg", {REORGS: "7x30"}, {16: False}),
    Case("FacilitatorStoreErrors", {STORE: "0x5 2x30"}, {4: False, 7: True, 15: False}),
    Case("FacilitatorStoreErrors", {STORE: "3x30"}, {16: False}),
    # --- queue
    Case("FacilitatorQueueSaturated", {DEPTH: "81x20", LIMIT: "100x20"}, {1: False, 3: True}),
    Case("FacilitatorQueueSaturated", {DEPTH: "80x20", LIMIT: "100x20"}, {15: False}),
    Case("FacilitatorQueueSaturated", {DEPTH: "900x20", LIMIT: "2000x20"}, {15: False}),
    # --- nothing settles, though it could
    Case(
        "FacilitatorNothingSettles",
        {VALID: "0+2x40", SUCCESS: "0+1x10 10x30", FAILURE: "0+2x40"},
        {12: False, 24: False, 35: True},
    ),
    Case("FacilitatorNothingSettles", {VALID: "0+2x40"}, {30: True}),
    Case("FacilitatorNothingSettles", {VALID: "0+2x40", SUCCESS: "0+1x40"}, {30: False}),
    Case("FacilitatorNothingSettles", {VALID: "0x40", REFUSED: "0+9x40"}, {30: False}),
]
