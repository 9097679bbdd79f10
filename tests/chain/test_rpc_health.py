"""Laws of what is known of one endpoint; times are seconds, and pass as the tests say."""

import pytest

from facilitator.chain.rpc.health import (
    EXCLUDED_PAUSE,
    FAULTS_TO_OPEN,
    INSPECT_EVERY,
    PENALTY_LIMIT,
    SHORT_PAUSE,
    STALE_BLOCKS,
    STALE_SECONDS,
    Head,
    Health,
    Standing,
    is_stale,
    parse_head,
)
from facilitator.domain.strict_json import JSON

START = 1_000.0


def well() -> Health:
    health = Health(penalty=0.5)
    health.well(START)
    return health


def test_nothing_is_known_before_the_first_look() -> None:
    health = Health()
    assert health.standing is Standing.UNKNOWN
    assert health.is_due(START)


def test_one_that_is_well_is_looked_at_again_after_a_while() -> None:
    health = well()
    assert not health.is_due(START + INSPECT_EVERY - 0.1)
    assert health.is_due(START + INSPECT_EVERY)


@pytest.mark.parametrize(
    ("idle", "standing"),
    [(2 * INSPECT_EVERY, Standing.GOOD), (2 * INSPECT_EVERY + 0.1, Standing.UNKNOWN)],
)
def test_one_that_was_left_alone_for_long_is_not_known_any_more(
    idle: float, standing: Standing
) -> None:
    health = well()
    health.expire(START + idle)
    assert health.standing is standing


def test_each_further_fault_doubles_the_pause_up_to_a_limit() -> None:
    health = well()
    pauses = []
    for _ in range(6):
        health.failed(START)
        pauses.append(health.inspect_at - START)
    assert pauses == [0.5, 1.0, 2.0, 4.0, PENALTY_LIMIT, PENALTY_LIMIT]


def test_the_circuit_opens_after_some_faults_in_a_row_and_closes_with_an_answer() -> None:
    health = well()
    for number in range(FAULTS_TO_OPEN):
        assert not health.is_open()
        health.failed(START + number)
    assert health.is_open()
    health.well(START + 4)  # a look alone does not tell that it answers what it failed to answer
    assert health.is_open()
    health.answered()
    assert not health.is_open()


def test_looks_alone_close_the_circuit_when_the_last_fault_is_long_ago() -> None:
    health = well()
    for _ in range(FAULTS_TO_OPEN):
        health.failed(START)
    health.well(START + PENALTY_LIMIT)
    assert not health.is_open()


def test_a_pause_that_was_asked_for_holds_for_looks() -> None:
    health = well()
    health.failed(START)
    health.pause(START, 30)
    assert not health.is_due(START + 29)
    assert health.is_due(START + 30)


def test_one_is_away_for_a_long_pause_and_not_for_a_short_one() -> None:
    health = well()
    health.pause(START, SHORT_PAUSE)
    assert not health.is_away(START)
    health.pause(START, SHORT_PAUSE + 1)
    assert health.is_away(START + SHORT_PAUSE)
    assert not health.is_away(START + SHORT_PAUSE + 1)


def test_one_that_is_excluded_is_looked_at_soon() -> None:
    health = well()
    health.excluded(Standing.STALE, START)
    assert not health.is_due(START + EXCLUDED_PAUSE - 0.1)
    assert health.is_due(START + EXCLUDED_PAUSE)


NOW = 50_000  # our clock, in unix seconds


def behind(blocks: int, seconds: int) -> Head:
    return Head(1_000 - blocks, NOW - seconds, START)


@pytest.mark.parametrize(
    ("seconds", "stale"), [(0, False), (STALE_SECONDS, False), (STALE_SECONDS + 1, True)]
)
def test_stale_is_more_than_so_many_seconds_behind_another_one(seconds: int, stale: bool) -> None:
    assert is_stale(behind(50, seconds), [behind(0, 0)], NOW) is stale


@pytest.mark.parametrize("lead", [0, 1, 60, 10**6])
def test_no_head_makes_another_one_stale_that_our_clock_calls_fresh(lead: int) -> None:
    """However far in the future the one says that it is, and however many blocks ahead."""
    head = behind(0, STALE_SECONDS)
    assert not is_stale(head, [behind(-(10**6), -lead)], NOW)
    assert is_stale(behind(0, STALE_SECONDS + 1), [behind(-1, -lead)], NOW)


def test_an_old_head_is_not_stale_where_nobody_has_a_newer_one() -> None:
    """The chain stands still."""
    assert not is_stale(behind(0, 10_000), [behind(0, 10_000), behind(5, 10_000)], NOW)
    assert not is_stale(behind(0, 10_000), [], NOW)


@pytest.mark.parametrize(
    ("blocks", "stale"),
    [
        ([STALE_BLOCKS + 1], False),
        ([STALE_BLOCKS + 1, STALE_BLOCKS], False),
        ([STALE_BLOCKS + 1, STALE_BLOCKS + 1], True),
        ([10**6, 0, -5], False),
        ([10**6, 0, 11], True),
    ],
)
def test_so_many_blocks_behind_two_others_is_stale(blocks: list[int], stale: bool) -> None:
    """One of them may lie; no clock can tell."""
    assert is_stale(behind(0, 0), [behind(-each, 0) for each in blocks], NOW) is stale


@pytest.mark.parametrize(
    "answer",
    [
        None,
        {},
        [],
        {"number": "0x1"},
        {"number": 1, "timestamp": "0x1"},
        {"number": "0x", "timestamp": "0x1"},
        {"number": "1", "timestamp": "0x1"},
        {"number": "0x1\n", "timestamp": "0x1"},
        {"number": "-0x1", "timestamp": "0x1"},
        {"number": hex(2**63), "timestamp": "0x1"},
        {"number": "0x1", "timestamp": hex(2**256)},
    ],
)
def test_what_is_no_block_is_no_head(answer: JSON) -> None:
    assert parse_head(answer, START) is None
    assert parse_head({"number": "0x10", "timestamp": "0x20"}, START) == Head(16, 32, START)


def test_a_chain_that_stands_still_leaves_two_that_say_so_well() -> None:
    """Whatever a third one makes up meanwhile; of two later ones, and of two alone, one is."""
    stands, invented = behind(0, 100), behind(-5, 0)
    assert not is_stale(stands, [stands, invented], NOW)
    assert is_stale(stands, [invented, invented], NOW)
    assert is_stale(stands, [invented], NOW)
