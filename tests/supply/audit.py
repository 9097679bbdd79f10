"""`python -m tests.supply.audit` (`make audit`): are the packages what was locked, may they be used
and is any known to be vulnerable?

A scanner that cannot reach its data may say "nothing found" as readily as one that can. So each is
also asked about a package that must be flagged: where it is not, the audit fails. `--offline`
leaves the vulnerabilities out, and says so.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parent.parent.parent
PROGRAMS: Final = ROOT / ".ops" / "bin"
ALLOWED: Final = Path(__file__).parent / "licences.toml"
SHIPPED: Final = "requirements.lock"
LOCKS: Final = (
    *(SHIPPED, "requirements-dev.lock", "requirements-ops.lock", "requirements-kubectl.lock"),
)
NODE: Final = ("facilitator/commands/contracts", "tests/clients")
# Known to be vulnerable for years: CVE-2014-1402 and others, CVE-2019-10744 and others.
FLAGGED_PYTHON: Final = ("jinja2", "2.4.1")
FLAGGED_NODE: Final = ("lodash", "4.17.4")

_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^ \\]+)")


def pins(lock: Path) -> dict[str, str]:
    """Version by name of all that the lock holds."""
    found = map(_PIN.match, lock.read_text().splitlines())
    return {match[1].lower(): match[2] for match in found if match}


def unpinned(lock: Path) -> Iterator[str]:
    """Requirements without an exact version or without a hash."""
    text = re.sub(r"\\\n\s*", " ", lock.read_text())
    for line in text.splitlines():
        if not line or line.startswith(("#", " ")):
            continue
        if not _PIN.match(line) or "--hash=sha256:" not in line:
            yield f"{lock.name}: {line.split()[0]} is not pinned with a hash"


def refused_licences() -> Iterator[str]:
    """Packages that ship or that tests install, under a licence that the list does not have."""
    allowed = tomllib.loads(ALLOWED.read_text())
    names = pins(ROOT / SHIPPED)
    done = subprocess.run(
        [
            *(str(PROGRAMS / "pip-licenses"), "--python", sys.executable, "--format=json"),
            *("--from=mixed", "--packages", *names),
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    packages = [(each["Name"], each["License"]) for each in json.loads(done.stdout)]
    for folder in NODE:
        lock = json.loads((ROOT / folder / "package-lock.json").read_text())
        for path, package in lock["packages"].items():
            if path:
                packages.append((path.rpartition("node_modules/")[2], package.get("license", "")))
    for name, licence in sorted(set(packages)):
        if licence not in allowed["licences"] and name not in allowed["packages"]:
            yield f"{name}: licence {licence or 'unknown'!r} is not in {ALLOWED.name}"


def python_advisories(lock: Path, osv: str | None) -> tuple[bool, str]:
    """Whether pip-audit is content, and what it says."""
    choice = [] if osv is None else [f"--osv-url={osv}"]
    done = subprocess.run(
        [
            *(str(PROGRAMS / "pip-audit"), "--requirement", str(lock), "--disable-pip"),
            *("--strict", "--vulnerability-service=osv", *choice),
            *("--progress-spinner=off", "--desc=off"),
        ],
        check=False,
        capture_output=True,
        text=True,
    )
    return done.returncode == 0, done.stdout + done.stderr


def node_advisories(folder: Path, registry: str | None) -> tuple[bool, str]:
    """Whether npm is content, and what it says."""
    choice = [] if registry is None else [f"--registry={registry}"]
    done = subprocess.run(
        [
            *("npm", "audit", "--package-lock-only", "--audit-level=low"),
            *("--fetch-retries=0", "--prefix", str(folder), *choice),
        ],
        check=False,
        capture_output=True,
        text=True,
    )
    return done.returncode == 0, done.stdout + done.stderr


def vulnerable(osv: str | None, registry: str | None) -> Iterator[str]:
    """What is known to be vulnerable, or that it cannot be known."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (package, version), digest = FLAGGED_PYTHON, "0" * 64
        lock = folder / "requirements.txt"
        lock.write_text(f"{package}=={version} --hash=sha256:{digest}\n")
        content, said = python_advisories(lock, osv)
        if content or "vulnerabilit" not in said or package not in said:
            yield f"advisories for Python cannot be had: {last(said)}"
        else:
            for each in LOCKS:
                content, said = python_advisories(ROOT / each, osv)
                if not content:
                    yield f"{each}: {said.strip()}"
        _write_node(folder)
        content, said = node_advisories(folder, registry)
        if content or FLAGGED_NODE[0] not in said:
            yield f"advisories for Node.js cannot be had: {last(said)}"
        else:
            for each in NODE:
                content, said = node_advisories(ROOT / each, registry)
                if not content:
                    yield f"{each}: {said.strip()}"


def _write_node(folder: Path) -> None:
    name, version = FLAGGED_NODE
    package: dict[str, Any] = {"name": "flagged", "version": "1.0.0"}
    package["dependencies"] = {name: version}
    locked = {"": package, f"node_modules/{name}": {"version": version}}
    lock = {"name": "flagged", "version": "1.0.0", "lockfileVersion": 3, "packages": locked}
    (folder / "package.json").write_text(json.dumps(package))
    (folder / "package-lock.json").write_text(json.dumps(lock))


def last(said: str) -> str:
    """The last line that is not empty."""
    lines = [line for line in said.splitlines() if line.strip()]
    return lines[-1] if lines else "the scanner said nothing"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="audit")
    parser.add_argument("--offline", action="store_true", help="leave the vulnerabilities out")
    parser.add_argument("--osv-url", help="where pip-audit asks; the OSV database by default")
    parser.add_argument("--npm-registry", help="where npm asks; its own registry by default")
    options = parser.parse_args(arguments)
    faults = [fault for lock in LOCKS for fault in unpinned(ROOT / lock)]
    faults += refused_licences()
    if options.offline:
        print("OFFLINE: vulnerabilities were NOT looked up; only pins, hashes and licences were.")
    else:
        faults += vulnerable(options.osv_url, options.npm_registry)
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    if not faults:
        print(f"{sum(len(pins(ROOT / lock)) for lock in LOCKS)} Python packages: no fault found")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
