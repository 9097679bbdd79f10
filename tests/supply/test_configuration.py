"""The CI's configuration is lint-clean, and runs the Makefile's targets."""

import re
import subprocess
from typing import Any

import pytest
import yaml

from tests.supply.audit import NODE, PROGRAMS, ROOT

WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
DEPENDABOT = ROOT / ".github" / "dependabot.yml"


def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(PROGRAMS / name), *arguments]
    return subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("schema", "path"),
    [("vendor.github-workflows", WORKFLOW), ("vendor.dependabot", DEPENDABOT)],
    ids=["workflow", "dependabot"],
)
def test_it_fits_its_schema(schema: str, path: Any) -> None:
    done = run("check-jsonschema", "--builtin-schema", schema, str(path))
    assert done.returncode == 0, done.stdout


def test_the_workflow_has_no_known_weakness() -> None:
    """Untrusted text in a script, tokens that stay, rights that nobody needs."""
    done = run("zizmor", "--offline", "--pedantic", "--no-progress", ".github")
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_runs_targets_that_are_there() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    jobs = yaml.safe_load(WORKFLOW.read_text())["jobs"]
    named = set(jobs["deployment"]["strategy"]["matrix"]["target"])
    text = WORKFLOW.read_text()
    named |= set(re.findall(r"run: make ([a-z0-9-]+)", text))
    assert named <= targets
    everything = (ROOT / ".ci" / "run").read_text()
    here = set(
        re.findall(
            r"make ((?:--[a-z-]+(?:=[a-z]+| [0-9]+)? )*[a-z0-9 -]+)",
            everything.replace("| tee", ""),
        )
    )
    decided = {target for line in here for target in line.split() if target in targets}
    assert {"check", "coverage", "test-image", "test-k8s", "test-alerts"} <= decided
    assert decided <= named
    assert "audit" in named


def test_every_lock_file_is_watched() -> None:
    updates = yaml.safe_load(DEPENDABOT.read_text())["updates"]
    npm = next(each for each in updates if each["package-ecosystem"] == "npm")
    assert npm["directories"] == [f"/{folder}" for folder in NODE]
    assert {"pip", "npm", "docker", "github-actions"} == {e["package-ecosystem"] for e in updates}


@pytest.mark.parametrize(
    "folder", [".github", "k8s/base", "k8s/components", "k8s/overlays", "k8s/helm/values.yaml"]
)
def test_yaml_means_what_it_looks_like(folder: str) -> None:
    """No key twice, no stray indentation."""
    rules = "{extends: relaxed, rules: {line-length: disable, truthy: disable}}"
    done = run("yamllint", "--strict", "-d", rules, folder)
    assert done.returncode == 0, done.stdout
