"""The Helm chart: its values, what it refuses, what it tells."""

import re
from typing import Any

import pytest

from tests.k8s.rendering import CHART, helm_template, objects, only, run


def test_the_chart_has_no_fault_that_helm_knows() -> None:
    run("helm", "lint", "--strict", str(CHART))


def test_it_keeps_the_names_of_the_chart_it_replaces() -> None:
    [values] = objects((CHART / "values.yaml").read_text())
    names = (
        *("replicaCount", "image.repository", "service.port", "env", "resources", "probes"),
        *("secrets.facilitatorPrivateKey", "secrets.x402FacilitatorAddress"),
        *("revisionHistoryLimit", "strategy", "monitoring.enabled"),
    )
    for name in names:
        value: Any = values
        for part in name.split("."):
            value = value[part]


@pytest.mark.parametrize(
    "values",
    [
        ["replicaCount=2"],
        ["autoscaling.enabled=true"],
        ["strategy.type=RollingUpdate"],
        ["replicaCount=0"],
        ["replicas=2"],
        ["service.port=70000"],
        ["secrets.x402FacilitatorAddress=0x12"],
        ["env.FACILITATOR_PRIVATE_KEY=x"],
        ["env.jeju=x"],
        ["image.digest=latest"],
        ["database.kind=mysql"],
        ["database.url=postgresql://pay:opens@db.example/journal"],
        ["database.listenUrl=postgresql://pay:opens@db.example/journal"],
        ["env.DATABASE_PASSWORD_FILE=x"],
        ["metrics.port=3402"],
        ["secrets.facilitatorPrivateKey=x"],
        ["secrets.config=x"],
    ],
    ids=lambda values: values[0],
)
def test_a_value_that_cannot_work_is_refused(values: list[str]) -> None:
    settings = [f"--set-string={values[0]}" if "=x" in values[0] else f"--set={values[0]}"]
    done = run("helm", "template", "facilitator", str(CHART), *settings, check=False)
    assert done.returncode != 0
    assert re.search("specifications of the schema|is needed where", done.stderr), done.stderr


def test_the_chart_makes_a_secret_of_what_it_is_given() -> None:
    values = ("secrets.facilitatorPrivateKey=one", "secrets.config=two")
    found = objects(helm_template(*values))
    secret = only("Secret", found)
    assert secret["stringData"] == {"keys": "one", "config.toml": "two"}
    template = only("Deployment", found)["spec"]["template"]
    assert re.fullmatch("[0-9a-f]{64}", template["metadata"]["annotations"]["checksum/secret"])
    changed = objects(helm_template(values[0], "secrets.config=three"))
    again = only("Deployment", changed)["spec"]["template"]
    assert again["metadata"]["annotations"] != template["metadata"]["annotations"]


def test_the_contracts_address_and_variables_arrive() -> None:
    address = "0x" + "ab" * 20
    found = objects(
        helm_template(f"secrets.x402FacilitatorAddress={address}", "env.LOG_LEVEL=DEBUG")
    )
    [container] = only("Deployment", found)["spec"]["template"]["spec"]["containers"]
    values = {each["name"]: each.get("value") for each in container["env"]}
    assert values["X402_FACILITATOR_ADDRESS"] == address
    assert values["LOG_LEVEL"] == "DEBUG"


def test_beside_a_pooler_the_server_itself_can_be_reached() -> None:
    values = ("database.kind=postgresql", "database.port=6432", "database.listenPort=5432")
    found = objects(helm_template(*values))
    rule = only("NetworkPolicy", found)["spec"]["egress"][-1]
    assert [each["port"] for each in rule["ports"]] == [6432, 5432]
    [container] = only("Deployment", found)["spec"]["template"]["spec"]["containers"]
    [variable] = [each for each in container["env"] if each["name"] == "DATABASE_LISTEN_URL"]
    assert variable["valueFrom"]["configMapKeyRef"]["optional"]


@pytest.mark.parametrize("listen", [None, "postgresql://pay@db.example/journal"])
def test_the_databases_address_may_be_a_value(listen: str | None) -> None:
    """Then there is no ConfigMap, and nothing of one that lies about."""
    url = "postgresql://pay@pool.example:6432/journal?sslmode=require"
    values = ["database.kind=postgresql", f"database.url={url}"]
    values += [] if listen is None else [f"database.listenUrl={listen}"]
    [container] = only("Deployment", objects(helm_template(*values)))["spec"]["template"]["spec"][
        "containers"
    ]
    assert not [each for each in container["env"] if "valueFrom" in each]
    variables = {each["name"]: each["value"] for each in container["env"]}
    assert variables["DATABASE_URL"] == url
    assert variables.get("DATABASE_LISTEN_URL") == listen


@pytest.mark.parametrize(
    ("values", "advice"),
    [
        (["--set-string=env.METRICS_PORT=9402"], "set metrics.port instead"),
        (["--set=metrics.port=9402,service.port=9402"], "give it another one"),
    ],
)
def test_a_port_of_metrics_that_nothing_would_lead_to_is_refused(
    values: list[str], advice: str
) -> None:
    done = run("helm", "template", "facilitator", str(CHART), *values, check=False)
    assert done.returncode != 0
    assert advice in done.stderr


def test_a_digest_goes_before_a_tag() -> None:
    digest = "sha256:" + "0" * 64
    found = objects(helm_template(f"image.digest={digest}", "image.tag=one"))
    [container] = only("Deployment", found)["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"facilitator@{digest}"


def test_its_notes_say_how_to_check_and_what_is_missing() -> None:
    dry = ("install", "facilitator", str(CHART), "--dry-run=client")
    notes = run("helm", *dry).stdout.partition("NOTES:")[2]
    assert "python -m facilitator check" in notes
    assert "create secret generic facilitator" in notes
    assert "helm rollback facilitator" in notes
    shared = run("helm", *dry, "--set=database.kind=postgresql").stdout.partition("NOTES:")[2]
    assert "create configmap facilitator-database" in shared
    assert "create secret generic facilitator-database --from-file=password" in shared
