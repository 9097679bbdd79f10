"""The audit finds what must be found, and fails where it cannot look."""

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.supply import audit

# What advisories a database has, by package: fixed in this version.
Advisories = dict[str, str]
KNOWN: Advisories = {"jinja2": "2.7.2", "lodash": "4.17.12"}


class Database(ThreadingHTTPServer):
    """Answers as OSV and as npm's registry do, from `advisories`."""

    advisories: Advisories


class Handler(BaseHTTPRequestHandler):
    server: Database

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        asked = json.loads(body)
        answer = self._osv(asked) if self.path == "/osv" else self._npm(asked)
        text = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, format: str, *_: Any) -> None:
        pass

    def _osv(self, asked: dict[str, Any]) -> dict[str, Any]:
        name = asked["package"]["name"]
        fixed = self.server.advisories.get(name)
        if fixed is None or _numbers(asked["version"]) >= _numbers(fixed):
            return {}
        events = [{"introduced": "0"}, {"fixed": fixed}]
        affected = {
            "package": {"name": name, "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": events}],
        }
        return {"vulns": [{"id": f"TEST-{name}", "details": "made up", "affected": [affected]}]}

    def _npm(self, asked: dict[str, list[str]]) -> dict[str, Any]:
        found = {}
        for name in asked.keys() & self.server.advisories.keys():
            found[name] = [
                {
                    **{"id": 1, "url": "http://127.0.0.1/1", "title": "made up", "cwe": []},
                    **{"severity": "high", "cvss": {"score": 7, "vectorString": None}},
                    "vulnerable_versions": f"<{self.server.advisories[name]}",
                }
            ]
        return found


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


@contextmanager
def database(advisories: Advisories) -> Iterator[str]:
    server = Database(("127.0.0.1", 0), Handler)
    server.advisories = advisories
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def asking(url: str) -> list[str]:
    return [f"--osv-url={url}/osv", f"--npm-registry={url}/"]


def test_what_is_not_vulnerable_passes(capsys: pytest.CaptureFixture[str]) -> None:
    with database(KNOWN) as url:
        assert audit.main(asking(url)) == 0, capsys.readouterr().err
    assert "no fault found" in capsys.readouterr().out


def test_a_package_of_ours_that_is_vulnerable_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    with database({**KNOWN, "aiohttp": "999", "viem": "999.0.0"}) as url:
        assert audit.main(asking(url)) == 1
    said = capsys.readouterr().err
    assert "requirements.lock" in said
    assert "aiohttp" in said
    assert "viem" in said


def test_a_database_that_knows_nothing_is_not_believed(capsys: pytest.CaptureFixture[str]) -> None:
    """All clear, also for what must be flagged: then nothing was looked up."""
    with database({}) as url:
        assert audit.main(asking(url)) == 1
    said = capsys.readouterr().err
    assert "advisories for Python cannot be had" in said
    assert "advisories for Node.js cannot be had" in said


def test_without_a_database_it_fails(capsys: pytest.CaptureFixture[str]) -> None:
    with database({}) as url:
        pass
    assert audit.main(asking(url)) == 1
    said = capsys.readouterr().err
    assert "advisories for Python cannot be had" in said
    assert "advisories for Node.js cannot be had" in said


def test_offline_it_says_what_it_did_not_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.main(["--offline"]) == 0
    assert "vulnerabilities were NOT looked up" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("a==1 \\\n    --hash=sha256:00\n    # via b\n", 0),
        ("a==1 ; python_version < '3.12' \\\n    --hash=sha256:00\n", 0),
        ("a==1\n", 1),
        ("a>=1 \\\n    --hash=sha256:00\n", 1),
        ("git+https://example.org/a\n", 1),
    ],
)
def test_everything_is_pinned_with_a_hash(text: str, faults: int, tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text(text)
    assert len(list(audit.unpinned(lock))) == faults
