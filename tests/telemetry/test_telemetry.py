"""Laws of the log: one line an event, fixed keys, and no secret whatever happens."""

import contextlib
import io
import json
import logging
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from facilitator.telemetry.logs import configure_logging, event, get_logger, request_id
from facilitator.telemetry.redaction import REDACTED, add_secret

LOG = get_logger("facilitator.test")
HASH = "0x" + "ab12" * 16
SIGNATURE = "0x" + "cd34" * 32 + "1b"

Lines = Callable[[], list[str]]
Format = Literal["text", "json"]


@pytest.fixture(params=["text", "json"])
def format(request: pytest.FixtureRequest) -> Format:
    value: Format = request.param
    return value


@pytest.fixture
def lines(format: Format, restored_logging: None) -> Lines:
    """Configure logging in `format`; calling the fixture gives what was written since."""
    written = io.StringIO()

    def take() -> list[str]:
        text = written.getvalue()
        written.seek(0)
        written.truncate()
        assert text == "" or text.endswith("\n")
        return text.removesuffix("\n").split("\n") if text else []

    with contextlib.redirect_stderr(written):
        configure_logging(format, "INFO")
    return take


@pytest.fixture
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)


as_json = pytest.mark.parametrize("format", ["json"], indirect=True)
as_text = pytest.mark.parametrize("format", ["text"], indirect=True)


# --- lines


@as_json
def test_a_json_line_has_the_fixed_keys_first(lines: Lines) -> None:
    event(LOG, logging.WARNING, "settled", network="jeju", transaction=bytes.fromhex(HASH[2:]))
    (line,) = lines()
    entry = json.loads(line)
    assert list(entry) == ["time", "level", "event", "logger", "network", "transaction"]
    assert entry["time"].endswith("Z")
    age = datetime.now(UTC) - datetime.fromisoformat(entry["time"])
    assert timedelta(milliseconds=-2) < age < timedelta(seconds=5)
    del entry["time"]
    assert entry == {
        "level": "warning",
        "event": "settled",
        "logger": "facilitator.test",
        "network": "jeju",
        "transaction": HASH,
    }


@as_text
def test_a_text_line_is_readable(lines: Lines) -> None:
    event(
        LOG, logging.INFO, "settled", network="jeju", transaction=HASH, note="two words", last=None
    )
    (line,) = lines()
    time, rest = line.split(" ", 1)
    assert re.fullmatch(r"[0-2]\d:[0-5]\d:[0-6]\d", time)
    assert rest == f'INFO settled network=jeju transaction={HASH} note="two words" last=-'


@as_json
def test_integers_beyond_a_double_are_strings_and_bytes_are_hex(lines: Lines) -> None:
    event(
        LOG,
        logging.INFO,
        "e",
        small=2**53 - 1,
        large=2**256 - 1,
        negative=-(2**60),
        flag=True,
        many=[b"\x01", 2**60, {"k": b"\x02"}],
        error=ValueError("why"),
        empty=b"",
    )
    entry = json.loads(lines()[0])
    assert (entry["small"], entry["large"]) == (2**53 - 1, str(2**256 - 1))
    assert (entry["negative"], entry["flag"]) == (str(-(2**60)), True)
    assert entry["many"] == ["0x01", str(2**60), {"k": "0x02"}]
    assert (entry["error"], entry["empty"]) == ("why", "0x")


@as_json
def test_a_field_never_replaces_a_fixed_key(lines: Lines) -> None:
    event(LOG, logging.INFO, "e", level="x", event="y", time=1, logger=2, name="n", log="l")
    entry = json.loads(lines()[0])
    assert (entry["level"], entry["event"], entry["logger"]) == ("info", "e", "facilitator.test")
    assert (entry["level_"], entry["event_"], entry["time_"], entry["logger_"]) == ("x", "y", 1, 2)
    assert (entry["name"], entry["log"]) == ("n", "l")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(max_size=20))
def test_one_event_is_one_line_whatever_it_says(lines: Lines, value: str, name: str) -> None:
    name = name.encode("utf-8", "replace").decode()
    event(LOG, logging.INFO, "e" + name, value=value, next="field")
    (line,) = lines()
    assert all(char.isprintable() for char in line) or line.startswith("{")
    assert not any(ord(char) < 32 for char in line)
    if line.startswith("{"):
        assert json.loads(line)["value"] == value
    else:
        assert line.endswith(" next=field")


@as_text
def test_a_value_cannot_pose_as_another_field(lines: Lines) -> None:
    event(LOG, logging.INFO, "e", path='/x" status=200\n12:00:00 INFO settled', status=404)
    (line,) = lines()
    assert line.endswith(' INFO e path="/x\\" status=200\\n12:00:00 INFO settled" status=404')


def test_the_request_is_named_in_every_line_of_its_context(lines: Lines) -> None:
    token = request_id.set("abc-1")
    event(LOG, logging.INFO, "inside")
    request_id.reset(token)
    event(LOG, logging.INFO, "outside")
    inside, outside = lines()
    assert "abc-1" in inside
    assert "request_id" in inside
    assert "request_id" not in outside


def test_what_is_below_the_level_is_not_written(lines: Lines) -> None:
    event(LOG, logging.DEBUG, "quiet")
    assert lines() == []


def test_a_second_configuration_replaces_the_first(lines: Lines) -> None:
    written = io.StringIO()
    with contextlib.redirect_stderr(written):
        configure_logging("json", "debug")
    event(LOG, logging.DEBUG, "once")
    assert json.loads(written.getvalue())["event"] == "once"
    assert lines() == []


def test_an_unknown_level_is_refused(restored_logging: None) -> None:
    with pytest.raises(ValueError, match="LOUD"):
        configure_logging("json", "LOUD")


@as_json
@pytest.mark.parametrize("name", ["hypercorn.error", "aiohttp.client", "asyncio", "anything"])
def test_other_peoples_loggers_share_the_format(lines: Lines, name: str) -> None:
    logging.getLogger(name).warning("took %.1f s, signed %s", 1.25, SIGNATURE)
    (line,) = lines()
    entry = json.loads(line)
    assert entry["event"] == f"took 1.2 s, signed {REDACTED}"
    assert entry["logger"] == name


@as_json
def test_warnings_share_the_format(lines: Lines) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    (line,) = lines()
    assert "DeprecationWarning: old" in json.loads(line)["event"]


# --- secrets


def test_a_traceback_is_logged_and_shows_no_secret(lines: Lines) -> None:
    add_secret("https://rpc.example/v3/tracebackkey1234567890")
    try:
        try:
            raise OSError("cannot reach https://rpc.example/v3/tracebackkey1234567890")
        except OSError:
            raise ValueError(f"signature {SIGNATURE}")  # noqa: B904 (the context is the point)
    except ValueError as error:
        event(LOG, logging.ERROR, "unhandled_error", exc_info=error)
    text = "\n".join(lines())
    assert "ValueError" in text
    assert "OSError: cannot reach" in text
    assert "test_telemetry.py" in text
    assert "tracebackkey1234567890" not in text
    assert "cd34cd34" not in text


@as_text
def test_a_traceback_cannot_pose_as_a_line_of_its_own(lines: Lines) -> None:
    try:
        raise ValueError("x\n12:00:00 INFO settled network=jeju")
    except ValueError as error:
        event(LOG, logging.ERROR, "unhandled_error", exc_info=error)
    first, *rest = lines()
    assert first.endswith("ERROR unhandled_error")
    assert all(line.startswith("  ") for line in rest)


def test_a_known_secret_is_never_shown(lines: Lines) -> None:
    """Neither in a name, a field, a nested field, an exception, nor in another case."""
    key = "0x" + "5e" * 32
    url = "https://someone:s3cret-pass@node.example/v2/AbCdEfGhIjKl0123456789?project=0011223344556677"
    add_secret(key)
    add_secret(url)
    secrets = [key[2:], "s3cret-pass", "AbCdEfGhIjKl0123456789", "0011223344556677"]
    for secret in [key, url, *secrets]:
        for form in (secret, secret.upper(), secret.lower()):
            event(LOG, logging.INFO, f"said {form}", field=form, nested=[{"k": form}])
            logging.getLogger("other").error("%s", OSError(form))
    text = "\n".join(lines()).lower()
    assert text
    for secret in secrets:
        assert secret.lower() not in text


def test_a_secret_that_json_escapes_is_found(lines: Lines) -> None:
    add_secret('pass"word\\with/quotes')
    event(LOG, logging.INFO, "e", dsn='postgresql://u:pass"word\\with/quotes@db')
    (line,) = lines()
    assert "with/quotes" not in line


def test_a_log_that_nobody_reads_any_more_harms_nothing(
    restored_logging: None, capfd: pytest.CaptureFixture[str]
) -> None:
    written = io.StringIO()
    with contextlib.redirect_stderr(written):
        configure_logging("json", "INFO")
    written.close()
    event(LOG, logging.INFO, "unheard")
    assert capfd.readouterr() == ("", "")


# --- a process


@pytest.mark.parametrize("format", ["text", "json"])
def test_logs_go_to_standard_error_and_leave_standard_output_to_the_program(format: str) -> None:
    code = (
        "import logging; from facilitator.telemetry.logs import *\n"
        f"configure_logging({format!r}, 'INFO')\n"
        "event(logging.getLogger('facilitator'), logging.INFO, 'started', port=3402)\n"
        "print('result')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "result\n"
    assert done.stderr.count("\n") == 1
    assert "started" in done.stderr


@pytest.mark.parametrize("format", ["text", "json"])
def test_a_line_that_cannot_be_written_is_told_of_without_what_it_says(format: str) -> None:
    """`logging` itself would print the arguments, as they are and beside the log."""
    code = (
        "import logging; from facilitator.telemetry.logs import *\n"
        f"configure_logging({format!r}, 'INFO')\n"
        f"logging.getLogger('other').error('took %d s', {SIGNATURE!r})\n"
        "event(logging.getLogger('facilitator'), logging.INFO, 'odd', text='\\ud800')\n"
        "event(logging.getLogger('facilitator'), logging.INFO, 'next')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, *_, last = done.stderr.splitlines()
    assert "unloggable" in first
    assert "other:" in first
    assert "TypeError" in first
    assert "next" in last
    assert "Traceback" not in done.stderr
    assert "cd34cd34" not in done.stderr
