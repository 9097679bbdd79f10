"""No secret is in a variable of a pod: children of the process and crash reports get them all."""

import re
from pathlib import PurePosixPath
from typing import Final

import pytest

from tests.k8s.rendering import VALUES, Object, helm_template, kustomize, objects, only

# What holds a secret by its name, unless it names a file.
SECRET_NAME: Final = re.compile(r"(KEY|PASSWORD|SECRET|TOKEN|RPC_URL|RPC_URLS)\Z")
# Credentials in a URL, or 32 bytes in hex.
SECRET_VALUE: Final = re.compile(r"://[^/@]*:[^/@]*@|(?<![0-9a-fA-F])[0-9a-fA-F]{64}")
FILES: Final = {"FACILITATOR_CONFIG"}

WAYS: Final = {
    "single": lambda: kustomize("single"),
    "replicated": lambda: kustomize("replicated"),
    "helm": lambda: helm_template(*VALUES["single"]),
    "helm-replicated": lambda: helm_template(*VALUES["replicated"]),
    "helm-url": lambda: helm_template(
        *VALUES["replicated"], "database.url=postgresql://pay@db.example/journal"
    ),
    "helm-secret": lambda: helm_template(
        f"secrets.facilitatorPrivateKey={'1d' * 32}", "secrets.config=two"
    ),
}


@pytest.fixture(params=sorted(WAYS))
def pod(request: pytest.FixtureRequest) -> Object:
    deployment = only("Deployment", objects(WAYS[request.param]()))
    spec: Object = deployment["spec"]["template"]["spec"]
    return spec


def in_variables(container: Object) -> list[str]:
    """The names of variables that hold a secret, or come from a Secret."""
    found = [
        each["secretRef"]["name"] for each in container.get("envFrom", []) if "secretRef" in each
    ]
    for each in container.get("env", []):
        if (
            "secretKeyRef" in each.get("valueFrom", {})
            or SECRET_NAME.search(each["name"])
            or SECRET_VALUE.search(each.get("value", ""))
        ):
            found.append(each["name"])
    return found


def test_no_secret_is_in_a_variable(pod: Object) -> None:
    for container in pod["containers"] + pod.get("initContainers", []):
        assert in_variables(container) == []


@pytest.mark.parametrize(
    "part",
    [
        {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]},
        {"envFrom": [{"secretRef": {"name": "s"}}]},
        {"env": [{"name": "DATABASE_URL", "value": "postgresql://pay:opens@db/journal"}]},
        {"env": [{"name": "A", "value": "0x" + "1d" * 32}]},
        {"env": [{"name": "FACILITATOR_PRIVATE_KEY", "value": "x"}]},
        {"env": [{"name": "BASE_RPC_URL", "value": "https://node.example/"}]},
    ],
)
def test_one_is_found_however_it_gets_there(part: Object) -> None:
    assert len(in_variables(part)) == 1


def test_what_variables_name_are_files_that_only_the_service_reads(pod: Object) -> None:
    [container] = pod["containers"]
    named = [
        PurePosixPath(each["value"])
        for each in container["env"]
        if each["name"].endswith("_FILE") or each["name"] in FILES
    ]
    database = [each for each in container["env"] if each["name"] == "DATABASE_URL"]
    is_sqlite = database[0].get("value", "").startswith("sqlite:")
    assert len(named) == 2 + (not is_sqlite)
    mounts = {PurePosixPath(each["mountPath"]): each for each in container["volumeMounts"]}
    volumes = {each["name"]: each for each in pod["volumes"]}
    for path in named:
        mount = mounts[path.parent]
        assert mount["readOnly"] is True
        assert volumes[mount["name"]]["secret"]["defaultMode"] & 0o007 == 0
