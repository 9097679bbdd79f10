"""Manifests as kubectl and helm render them. `python -m tests.k8s.rendering` (`make manifests`)
writes what is committed and made from something else: PrometheusRule, the chart's copies, goldens.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import yaml

ROOT = Path(__file__).parent.parent.parent
PROGRAMS = ROOT / ".ops" / "bin"
MANIFESTS = ROOT / "k8s"
CHART = MANIFESTS / "helm"
MONITORING = MANIFESTS / "overlays" / "monitoring"
GOLDENS = Path(__file__).parent / "goldens"

OVERLAYS: Final = ("single", "replicated", "monitoring")
# How the chart is asked for what an overlay is.
VALUES: Final[dict[str, list[str]]] = {
    "single": [],
    "replicated": [
        "database.kind=postgresql",
        "replicaCount=2",
        "autoscaling.enabled=true",
    ],
}
# The same for /metrics on a port of its own, beside monitoring.
METRICS_PORT: Final = "metrics.port=9402"
RULE_HEAD: Final = """\
# Made of alerts.yaml by `make manifests`.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: facilitator
  labels:
    app.kubernetes.io/name: facilitator
    app.kubernetes.io/instance: facilitator
spec:
"""

Object = dict[str, Any]


def kustomize(overlay: str) -> str:
    """The overlay's manifests, as text."""
    return run("kubectl", "kustomize", str(MANIFESTS / "overlays" / overlay)).stdout


def composed(folder: Path, overlays: Sequence[str], components: Sequence[str]) -> str:
    """The manifests of an overlay that is written into `folder`, as an operator would."""

    def at(kind: str, names: Sequence[str]) -> list[str]:
        return [os.path.relpath(MANIFESTS / kind / name, folder) for name in names]

    written = {"resources": at("overlays", overlays), "components": at("components", components)}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(written))
    return run("kubectl", "kustomize", str(folder)).stdout


def helm_template(*values: str) -> str:
    """The chart's manifests, as text; `values` are those of --set."""
    settings = [f"--set={value}" for value in values]
    return run("helm", "template", "facilitator", str(CHART), *settings).stdout


def run(name: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """kubectl or helm, without any cluster. Raises AssertionError with what it said."""
    done = subprocess.run(
        [str(PROGRAMS / name), *arguments],
        env={"HOME": "/nonexistent", "KUBECONFIG": "/nonexistent"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 or not check, done.stdout + done.stderr
    return done


def objects(text: str) -> list[Object]:
    return [each for each in yaml.safe_load_all(text) if each]


def only(kind: str, found: list[Object]) -> Object:
    """The one object of this kind."""
    [thing] = [each for each in found if each["kind"] == kind]
    return thing


def prometheus_rule() -> str:
    """The rule file as an object of the Prometheus operator."""
    lines = (MONITORING / "alerts.yaml").read_text().splitlines()
    body = "\n".join(f"  {line}" if line else "" for line in lines if not line.startswith("#"))
    return f"{RULE_HEAD}{body}\n"


def goldens() -> dict[str, str]:
    """What the committed renderings must be, by file name."""
    found = {f"{overlay}.yaml": kustomize(overlay) for overlay in OVERLAYS}
    found["helm.yaml"] = helm_template(*VALUES["single"])
    # without the dashboard, which is in monitoring.yaml already
    everything = objects(helm_template(*VALUES["replicated"], "monitoring.enabled=true"))
    kept = [each for each in everything if each["kind"] != "ConfigMap"]
    found["helm-replicated.yaml"] = yaml.safe_dump_all(kept, sort_keys=False)
    return found


def write() -> None:
    (MONITORING / "prometheusrule.yaml").write_text(prometheus_rule())
    for name in ("alerts.yaml", "dashboard.json"):
        shutil.copy(MONITORING / name, CHART / "files" / name)
    GOLDENS.mkdir(exist_ok=True)
    for name, text in goldens().items():
        (GOLDENS / name).write_text(text)


def plain(thing: Object) -> Object:
    """An object without what only a release of Helm has, and with lists of variables in order."""
    copy: Object = json.loads(json.dumps(thing))
    metadata = copy["metadata"]
    for part in ("labels", "annotations"):
        kept = {
            name: value
            for name, value in metadata.get(part, {}).items()
            if not name.startswith("helm.sh/") and name != "app.kubernetes.io/managed-by"
        }
        metadata.pop(part, None)
        if kept:
            metadata[part] = kept
    if copy["kind"] == "Deployment":
        pod = copy["spec"]["template"]["spec"]
        pod["volumes"].sort(key=lambda volume: volume["name"])
        for container in pod["containers"]:
            container["env"].sort(key=lambda variable: variable["name"])
            container["volumeMounts"].sort(key=lambda mount: mount["name"])
    if copy["kind"] == "ConfigMap":
        copy["data"] = {name: json.loads(text) for name, text in copy["data"].items()}
    return copy


if __name__ == "__main__":
    write()
