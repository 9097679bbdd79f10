"""Laws of strict JSON: what json.dumps writes is read back, what has two meanings is refused."""

import json
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from facilitator.domain.strict_json import (
    JSON,
    MAX_DEPTH,
    MAX_INTEGER_DIGITS,
    StrictJSONError,
    decode,
)

TEXT = st.text(st.characters(codec="utf-8"))
VALUES: st.SearchStrategy[JSON] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**MAX_INTEGER_DIGITS) + 1, 10**MAX_INTEGER_DIGITS - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
)


@given(VALUES, st.booleans(), st.sampled_from([None, 1]))
def test_what_json_writes_is_read_back(value: JSON, ascii_only: bool, indent: int | None) -> None:
    assert decode(json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()) == value


@given(st.binary() | TEXT.map(str.encode) | st.text('[]{}",:\\u0123dDeE.-+ tfn').map(str.encode))
@example(b'"\\\\ud800"')
@example(b"[1] ")
def test_a_text_is_read_as_json_reads_it_or_refused(body: bytes) -> None:
    """Never another value, never another exception."""
    try:
        value = decode(body)
    except StrictJSONError:
        return
    assert value == json.loads(body)


@given(VALUES, st.data())
def test_a_second_key_is_refused_wherever_it_stands(value: JSON, data: st.DataObject) -> None:
    key = data.draw(TEXT)
    twice = f"{{{json.dumps(key)}: {json.dumps(value)}, {json.dumps(key)}: {json.dumps(value)}}}"
    for text in (twice, f"[{twice}]", f'{{"outer": [0, {twice}]}}'):
        with pytest.raises(StrictJSONError, match="duplicate key"):
            decode(text.encode())


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not JSON"),
        (b" ", "not JSON"),
        (b"{", "not JSON"),
        (b'{"a":1,}', "not JSON"),
        (b"[1,]", "not JSON"),
        (b"{'a':1}", "not JSON"),
        (b"{a:1}", "not JSON"),
        (b"[1] x", "not JSON"),
        (b"{}{}", "not JSON"),
        (b"{}\x00", "not JSON"),
        (b"\xc2\xa0{}", "not JSON"),  # a no-break space is no JSON whitespace
        (b'"\n"', "not JSON"),
        (b'"\\x41"', "not JSON"),
        (b'"\\u12"', "not JSON"),
        (b'"open', "not JSON"),
        (b"True", "not JSON"),
        (b"/* */ 1", "not JSON"),
        (b"01", "not JSON"),
        (b"+1", "not JSON"),
        (b".5", "not JSON"),
        (b"1.", "not JSON"),
        (b"0x10", "not JSON"),
        (b"1_000", "not JSON"),
        ("\uff11".encode(), "not JSON"),
        ("1\uff11".encode(), "not JSON"),
        ("1.\u0661".encode(), "not JSON"),
        (b"NaN", "NaN is not JSON"),
        (b'{"a":[NaN]}', "NaN is not JSON"),
        (b"Infinity", "Infinity is not JSON"),
        (b"-Infinity", "-Infinity is not JSON"),
        (b"1e999", "number out of range"),
        (b"[-1e999]", "number out of range"),
        (b"1" + b"0" * 400 + b".0", "number out of range"),
        (b"1" * 101, "integer of more than 100 digits"),
        (b"-" + b"1" * 101, "integer of more than 100 digits"),
        (b"1" * 5000, "integer of more than 100 digits"),
        (b'{"a":1,"a":1}', "duplicate key 'a'"),
        (b'{"a":1,"\\u0061":2}', "duplicate key 'a'"),
        (b'[{"x":{"\\n":1,"\\n":2}}]', r"duplicate key '\\n'"),
        (b'"\\ud800"', "lone surrogate"),
        (b'"\\udfff"', "lone surrogate"),
        (b'"\\uD83D"', "lone surrogate"),
        (b'"\\ude00\\ud83d"', "lone surrogate"),
        (b'{"\\ud800":1}', "lone surrogate"),
        (b'{"a":[1,{"b":"x\\udc00y"}]}', "lone surrogate"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        ("{}".encode("utf-16"), "not UTF-8"),
        ("{}".encode("utf-16-le"), "not JSON"),
        ("{}".encode("utf-32"), "not UTF-8"),
        (b'"\xff"', "not UTF-8"),
        (b'"\xc0\x80"', "not UTF-8"),  # an overlong NUL
        (b'"\xed\xa0\x80"', "not UTF-8"),  # a surrogate, encoded
        (b"[" * 65 + b"]" * 65, "nested deeper than 64"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "nested deeper than 64"),
        (b'["",' + b"[" * 64 + b"]" * 65, "nested deeper than 64"),
    ],
)
def test_refused(body: bytes, reason: str) -> None:
    with pytest.raises(StrictJSONError, match=rf"\A{reason}"):
        decode(body)


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b" \t\r\n{} ", {}),
        (b"1" * MAX_INTEGER_DIGITS, int("1" * MAX_INTEGER_DIGITS)),
        (str(2**256).encode(), 2**256),
        (b"-0", 0),
        (b"1E2", 100.0),
        (b'"\\ud83d\\ude00"', "\U0001f600"),
        (b'"\\\\ud800"', "\\ud800"),
        (b'{"":null,"A":1,"a":2}', {"": None, "A": 1, "a": 2}),
        (b'"' + b"[" * 100 + b'"', "[" * 100),
        (b'["\\"' + b"[" * 100 + b'"]', ['"' + "[" * 100]),
        (b"[" + b"[]," * 100 + b"[]]", [[]] * 101),
    ],
)
def test_accepted(body: bytes, value: JSON) -> None:
    assert decode(body) == value


def test_the_deepest_nesting_allowed_is_read() -> None:
    assert decode(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH) is not None


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"[" * 100_000, id="arrays"),
        pytest.param(b'{"a":' * 100_000, id="objects"),
        pytest.param(b"[" * 100_000 + b"]" * 100_000, id="closed"),
        pytest.param(b'["' + b'\\"' * 100_000, id="escapes in an open string"),
        pytest.param(b"[" * 40 + b'"' * 100_001, id="quotes"),
        pytest.param(b"]" * 100_000 + b"[" * 100_000, id="closed before open"),
    ],
)
def test_a_hostile_text_is_refused_fast(body: bytes) -> None:
    start = time.process_time()
    with pytest.raises(StrictJSONError):
        decode(body)
    assert time.process_time() - start < 2  # some 10 ms; recursion or backtracking takes minutes


def test_a_reason_repeats_little_of_a_hostile_key() -> None:
    key = json.dumps("k\n" * 10_000)
    with pytest.raises(StrictJSONError) as caught:
        decode(f"{{{key}:1,{key}:2}}".encode())
    assert len(str(caught.value)) < 200
    assert "\n" not in str(caught.value)
