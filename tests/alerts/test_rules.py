"""Each alert fires when it should, and not when it should not: promtool evaluates the rules."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.alerts.cases import CASES, Case
from tests.alerts.programs import DASHBOARD, ROOT, RULES, program

RULE_FILE: dict[str, Any] = yaml.safe_load(RULES.read_text())
ALERTS: dict[str, dict[str, Any]] = {
    rule["alert"]: rule for group in RULE_FILE["groups"] for rule in group["rules"]
}
RUNBOOK = (ROOT / "docs" / "operations.md").read_text()
METRICS = (ROOT / "docs" / "metrics.md").read_text()
METRIC = re.compile(r"\b(?:facilitator|http)_[a-z_0-9]+\b")
NEVER, ALWAYS = "vector(0) > 1", "vector(1) > 0"


def with_job(series: str) -> str:
    name, _, labels = series.removesuffix("}").partition("{")
    return f'{name}{{job="facilitator",{labels}}}'


def unit_test(case: Case) -> dict[str, Any]:
    """The case as promtool reads it."""
    firing = f'count(ALERTS{{alertname="{case.alert}",alertstate="firing"}}) or vector(0)'
    return {
        "interval": "1m",
        "input_series": [
            {"series": with_job(name), "values": values} for name, values in case.series.items()
        ],
        "promql_expr_test": [
            {
                "expr": firing,
                "eval_time": f"{minute}m",
                "exp_samples": [{"labels": "{}", "value": int(fires)}],
            }
            for minute, fires in case.fires.items()
        ],
    }


def run_cases(
    folder: Path, cases: list[Case], **expressions: str
) -> subprocess.CompletedProcess[str]:
    """promtool's verdict; `expressions` replace those of the alerts they name."""
    rules = json.loads(json.dumps(RULE_FILE))
    for group in rules["groups"]:
        for rule in group["rules"]:
            rule["expr"] = expressions.get(rule["alert"], rule["expr"])
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
    tests = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "1m",
        "tests": [unit_test(case) for case in cases],
    }
    (folder / "tests.yaml").write_text(yaml.safe_dump(tests))
    return subprocess.run(
        [program("promtool"), "test", "rules", str(folder / "tests.yaml")],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("case", CASES, ids=[f"{n}-{case.alert}" for n, case in enumerate(CASES)])
def test_it_fires_when_it_should_and_not_before(case: Case, tmp_path: Path) -> None:
    done = run_cases(tmp_path, [case])
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", ALERTS)
def test_its_cases_notice_a_rule_that_never_fires_and_one_that_always_does(
    alert: str, tmp_path: Path
) -> None:
    cases = [case for case in CASES if case.alert == alert]
    assert run_cases(tmp_path, cases, **{alert: NEVER}).returncode == 1
    assert run_cases(tmp_path, cases, **{alert: ALWAYS}).returncode == 1


def test_the_rule_file_is_one_that_prometheus_loads() -> None:
    done = subprocess.run(
        [program("promtool"), "check", "rules", str(RULES)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", ALERTS)
def test_who_is_woken_up_learns_what_to_do(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert rule["annotations"]["runbook"] == f"docs/operations.md#{alert.lower()}"
    assert f"\n### {alert}\n" in RUNBOOK


def test_the_runbook_knows_no_alert_that_is_not_there() -> None:
    assert set(re.findall(r"^### (Facilitator\w+)$", RUNBOOK, re.MULTILINE)) == set(ALERTS)


def dashboard_expressions() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", ())]


def test_every_metric_that_is_used_is_one_that_the_service_has() -> None:
    listed = set(re.findall(r"^\| `((?:facilitator|http)_\w+)", METRICS, re.MULTILINE))
    used = [rule["expr"] for rule in ALERTS.values()] + dashboard_expressions()
    names = {name for expr in used for name in METRIC.findall(expr)}
    histograms = {re.sub(r"_(bucket|sum|count)$", "", name) for name in names}
    assert histograms - listed == set()


def test_prometheus_understands_the_dashboards_queries(tmp_path: Path) -> None:
    expressions = dashboard_expressions()
    assert expressions
    rules = [
        {"record": f"panel:{number}", "expr": expr.replace("$__rate_interval", "5m")}
        for number, expr in enumerate(expressions)
    ]
    path = tmp_path / "dashboard.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run(
        [program("promtool"), "check", "rules", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
