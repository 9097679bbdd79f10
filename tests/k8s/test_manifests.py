"""What the manifests promise, whichever tool renders them."""

import json
import subprocess
from pathlib import Path

import pytest

from facilitator import __version__
from facilitator.config.database import PostgreSQL
from facilitator.config.settings import load_config
from tests.k8s.rendering import (
    CHART,
    GOLDENS,
    METRICS_PORT,
    MONITORING,
    OVERLAYS,
    PROGRAMS,
    VALUES,
    Object,
    composed,
    goldens,
    helm_template,
    kustomize,
    objects,
    only,
    plain,
    prometheus_rule,
)

CRDS = {"ServiceMonitor", "PrometheusRule"}
# the oldest release that the chart takes, and the newest whose schemas are at hand
KUBERNETES = ("1.27", "1.34")
GRACE_OF_THE_SERVICE = 5 + 45 + 10  # preStop, SETTLE_TIMEOUT_SECONDS, writing what is left


@pytest.fixture(params=["single", "replicated"])
def overlay(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def pod(overlay: str) -> Object:
    spec: Object = only("Deployment", objects(kustomize(overlay)))["spec"]["template"]["spec"]
    return spec


# --- what is rendered


@pytest.mark.parametrize("overlay", ["single", "replicated"])
def test_the_chart_renders_the_same_objects_as_the_overlay(overlay: str) -> None:
    ours = objects(kustomize(overlay)) + objects(kustomize("monitoring"))
    theirs = objects(helm_template(*VALUES[overlay], "monitoring.enabled=true"))
    assert by_name(theirs) == by_name(ours)
    assert len(theirs) == len(ours)


def by_name(found: list[Object]) -> dict[tuple[str, str], Object]:
    return {(each["kind"], each["metadata"]["name"]): plain(each) for each in found}


def test_metrics_on_a_port_of_their_own_are_found_there(overlay: str, tmp_path: Path) -> None:
    """The process answers there, Service and NetworkPolicy lead there, Prometheus asks there."""
    text = composed(tmp_path, [overlay, "monitoring"], ["metrics-port"])
    found = objects(text)
    theirs = helm_template(*VALUES[overlay], "monitoring.enabled=true", METRICS_PORT)
    assert by_name(objects(theirs)) == by_name(found)
    [container] = only("Deployment", found)["spec"]["template"]["spec"]["containers"]
    [listens] = [each["value"] for each in container["env"] if each["name"] == "METRICS_PORT"]
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert ports == {"http": 3402, "metrics": int(listens)}
    services = {each["name"]: each for each in only("Service", found)["spec"]["ports"]}
    [endpoint] = only("ServiceMonitor", found)["spec"]["endpoints"]
    assert services[endpoint["port"]]["targetPort"] == "metrics"
    policy = only("NetworkPolicy", found)["spec"]["ingress"]
    assert {each["port"] for rule in policy for each in rule["ports"]} == {"http", "metrics"}
    known = [each for each in found if each["kind"] not in CRDS]
    done = validate(known, KUBERNETES[-1], tmp_path)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["single", "replicated", "monitoring", "helm", "helm-replicated"])
def test_what_is_rendered_is_what_was_reviewed(name: str) -> None:
    """`make manifests` writes the goldens anew; the difference is for a reader."""
    assert goldens()[f"{name}.yaml"] == (GOLDENS / f"{name}.yaml").read_text()


def test_copies_are_equal_to_what_they_are_made_of() -> None:
    assert (MONITORING / "prometheusrule.yaml").read_text() == prometheus_rule()
    for name in ("alerts.yaml", "dashboard.json"):
        assert (CHART / "files" / name).read_text() == (MONITORING / name).read_text()
    [rule] = [each for each in objects(kustomize("monitoring")) if each["kind"] == "PrometheusRule"]
    [plain_rules] = objects((MONITORING / "alerts.yaml").read_text())
    assert rule["spec"] == plain_rules


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("name", [*OVERLAYS, "helm", "helm-replicated"])
def test_kubernetes_knows_every_field(name: str, version: str, tmp_path: Path) -> None:
    found = objects((GOLDENS / f"{name}.yaml").read_text())
    known = [each for each in found if each["kind"] not in CRDS]
    assert known
    done = validate(known, version, tmp_path)
    assert done.returncode == 0, done.stdout


def test_a_field_that_kubernetes_does_not_know_is_noticed(tmp_path: Path) -> None:
    deployment = only("Deployment", objects(kustomize("single")))
    deployment["spec"]["template"]["spec"]["enableServiceLink"] = False
    assert validate([deployment], KUBERNETES[-1], tmp_path).returncode != 0


def validate(found: list[Object], version: str, folder: Path) -> subprocess.CompletedProcess[str]:
    paths = []
    for number, thing in enumerate(found):
        paths.append(str(folder / f"{number}.json"))
        Path(paths[-1]).write_text(json.dumps(thing))
    command = [str(PROGRAMS / "kubernetes-validate"), "--strict", "-k", version, *paths]
    return subprocess.run(command, check=False, capture_output=True, text=True)


# --- what they promise


def test_nothing_runs_as_root_or_may_become_it(pod: Object) -> None:
    [container] = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False


def test_the_cluster_sets_no_variables_of_ours(pod: Object) -> None:
    """A Service of this name makes FACILITATOR_PORT a URL where service links are on."""
    assert pod["enableServiceLinks"] is False


def test_a_pod_has_time_to_tell_what_it_settled(pod: Object) -> None:
    assert pod["terminationGracePeriodSeconds"] > GRACE_OF_THE_SERVICE
    [container] = pod["containers"]
    assert container["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "5"]


def test_liveness_asks_neither_node_nor_journal(pod: Object) -> None:
    [container] = pod["containers"]
    assert container["livenessProbe"]["httpGet"]["path"] == "/health"
    assert container["startupProbe"]["httpGet"]["path"] == "/health"
    assert container["readinessProbe"]["httpGet"]["path"] == "/ready"


def test_what_it_uses_is_asked_for_and_limited(pod: Object) -> None:
    [container] = pod["containers"]
    assert set(container["resources"]["requests"]) == {"cpu", "memory"}
    assert set(container["resources"]["limits"]) == {"cpu", "memory"}


def test_five_revisions_are_kept_to_roll_back_to(overlay: str) -> None:
    deployment = only("Deployment", objects(kustomize(overlay)))
    assert deployment["spec"]["revisionHistoryLimit"] == 5


def test_a_journal_in_sqlite_never_has_two_processes() -> None:
    found = objects(kustomize("single"))
    spec = only("Deployment", found)["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    assert only("PersistentVolumeClaim", found)["spec"]["accessModes"] == ["ReadWriteOnce"]
    kinds = {each["kind"] for each in found}
    assert not {"HorizontalPodAutoscaler", "PodDisruptionBudget"} & kinds


def test_replicas_are_replaced_one_by_one_and_never_all_away() -> None:
    found = objects(kustomize("replicated"))
    spec = only("Deployment", found)["spec"]
    assert "replicas" not in spec, "the autoscaler's business"
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert only("HorizontalPodAutoscaler", found)["spec"]["minReplicas"] == 2
    assert only("PodDisruptionBudget", found)["spec"]["maxUnavailable"] == 1
    [spread] = spec["template"]["spec"]["topologySpreadConstraints"]
    assert spread["topologyKey"] == "kubernetes.io/hostname"


def test_the_network_policy_lets_out_what_is_needed_and_no_more(overlay: str) -> None:
    policy = only("NetworkPolicy", objects(kustomize(overlay)))["spec"]
    ports = {each["port"] for rule in policy["egress"] for each in rule["ports"]}
    assert ports == {53, 443} | ({5432} if overlay == "replicated" else set())
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}


def test_every_selector_selects_the_pods(overlay: str) -> None:
    found = objects(kustomize(overlay))
    labels = only("Deployment", found)["spec"]["template"]["metadata"]["labels"]
    monitor = only("ServiceMonitor", objects(kustomize("monitoring")))["spec"]
    service = only("Service", found)
    policy = only("NetworkPolicy", found)["spec"]
    for selector in (service["spec"]["selector"], policy["podSelector"]["matchLabels"]):
        assert selector.items() <= labels.items()
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    # the alerts look for job="facilitator"
    assert service["metadata"]["labels"][monitor["jobLabel"]] == "facilitator"
    assert monitor["endpoints"][0]["port"] in {each["name"] for each in service["spec"]["ports"]}
    assert monitor["endpoints"][0]["path"] == "/metrics"


def test_the_image_is_this_version(pod: Object) -> None:
    assert pod["containers"][0]["image"] == f"facilitator:{__version__}"
    chart = objects((CHART / "Chart.yaml").read_text())[0]
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)


def test_the_service_understands_its_environment(pod: Object, tmp_path: Path) -> None:
    """The variables of the pod, with its ConfigMap and the files of its Secrets in place, are a
    configuration.
    """
    [container] = pod["containers"]
    told = {
        "url": "postgresql://pay@pool:6432/journal",
        "listen-url": "postgresql://pay@db/journal",
    }
    environment = {}
    for each in container["env"]:
        reference = each.get("valueFrom", {}).get("configMapKeyRef")
        environment[each["name"]] = told[reference["key"]] if reference else each["value"]
    (tmp_path / "facilitator").mkdir()
    (tmp_path / "facilitator-database").mkdir()
    (tmp_path / "facilitator" / "keys").write_text("11" * 32 + "\n")
    endpoints = '[networks.jeju]\nrpc_urls = ["https://node.example/"]\n'
    (tmp_path / "facilitator" / "config.toml").write_text(endpoints)
    (tmp_path / "facilitator-database" / "password").write_text("opens\n")
    moved = {
        name: value.replace("/run/secrets", str(tmp_path)) for name, value in environment.items()
    }
    config = load_config(moved)
    assert config.is_production
    assert len(config.keys) == 1
    assert config.port == container["ports"][0]["containerPort"]
    assert config.settle_timeout <= 45
    if isinstance(config.database, PostgreSQL):
        assert config.database.listens_at is not None
        for address in (config.database, config.database.listens_at):
            assert address.read_password() == "opens"
    else:
        assert str(config.database) == "/data/facilitator.db"
