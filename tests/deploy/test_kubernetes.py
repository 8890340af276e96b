"""The manifests, compared with Kubernetes' own schemas, with each other, and with the service."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from service.settings import Settings
from tests.deploy.test_container import USER, known_setting
from tests.deploy.tools import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
SCHEMAS = Path(__file__).parent / "schemas"
MANIFESTS = sorted(path for path in FOLDER.rglob("*.yaml") if path.name != "kustomization.yaml")
KUSTOMIZATIONS = sorted(FOLDER.rglob("kustomization.yaml"))


def load(path: Path) -> dict[str, Any]:
    loaded = yaml.safe_load(path.read_text())
    assert isinstance(loaded, dict)
    return loaded


def check(manifest: dict[str, Any]) -> None:
    own = SCHEMAS / f"{manifest['kind'].lower()}.json"
    if own.exists():
        jsonschema.validate(manifest, json.loads(own.read_text()))
    else:
        kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


@pytest.fixture(scope="module")
def manifests() -> dict[str, dict[str, Any]]:
    loaded = [load(path) for path in MANIFESTS]
    return {manifest["kind"]: manifest for manifest in loaded}


@pytest.fixture(scope="module")
def container(manifests: dict[str, dict[str, Any]]) -> dict[str, Any]:
    [container] = manifests["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert isinstance(container, dict)
    return container


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_a_manifest_follows_its_schema(path: Path) -> None:
    manifest = load(path)
    check(manifest)
    # The check does find faults.
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        check({**manifest, "metadta": {}})


@pytest.mark.parametrize("path", KUSTOMIZATIONS, ids=lambda path: path.parent.name)
def test_a_kustomization_names_existing_files(path: Path) -> None:
    kustomization = load(path)
    named = [*kustomization.get("resources", []), *kustomization.get("components", [])]
    for name in named:
        assert (path.parent / name).exists(), name
    for beside in path.parent.glob("*.yaml"):
        assert beside == path or beside.name in named, f"{beside} is in no kustomization"


@pytest.mark.parametrize("gpu", [False, True], ids=["cpu", "gpu"])
def test_what_kustomize_builds_follows_the_schemas(gpu: bool, tmp_path: Path) -> None:
    tool = next((name for name in ("kustomize", "kubectl") if shutil.which(name)), None)
    if tool is None:
        pytest.skip("NOT TESTED: neither kustomize nor kubectl is installed here")
    shutil.copytree(FOLDER, tmp_path / "kubernetes")
    root = tmp_path / "kubernetes" / "kustomization.yaml"
    text = root.read_text()
    assert "\n  # - gpu " in text
    root.write_text(text.replace("\n  # - gpu ", "\n  - gpu ") if gpu else text)
    build = [tool, *(["kustomize"] if tool == "kubectl" else ["build"]), str(root.parent)]
    built = subprocess.run(build, capture_output=True, text=True, check=True).stdout
    by_kind = {manifest["kind"]: manifest for manifest in yaml.safe_load_all(built)}
    assert set(by_kind) == {load(path)["kind"] for path in MANIFESTS}
    for manifest in by_kind.values():
        check(manifest)
    pods = by_kind["Deployment"]["spec"]
    assert "replicas" not in pods, "the autoscaler sets them"
    [container] = pods["template"]["spec"]["containers"]
    limits = container["resources"]["limits"]
    assert limits.get("nvidia.com/gpu") == ("1" if gpu else None)
    devices = {one["name"]: one.get("value") for one in container["env"]}["PIXELDP_DEVICES"]
    workers = devices.split(",")
    assert workers == (
        ["cuda:0"] if gpu else ["cpu"] * int(container["resources"]["requests"]["cpu"])
    )
    # 70 % of a pod's workers
    _, used = by_kind["ScaledObject"]["spec"]["triggers"]
    assert float(used["metadata"]["threshold"]) == pytest.approx(0.7 * len(workers))


def test_no_request_is_killed_before_its_deadline(manifests: dict[str, dict[str, Any]]) -> None:
    pod = manifests["Deployment"]["spec"]["template"]["spec"]
    env = {one["name"]: one.get("value") for one in pod["containers"][0]["env"]}
    longest = float(env["PIXELDP_TIMEOUT_MS_LIMIT"]) / 1000
    delay = float(env["PIXELDP_STOP_DELAY_SECONDS"])
    assert delay + longest < pod["terminationGracePeriodSeconds"]


def test_selectors_select_the_pods(manifests: dict[str, dict[str, Any]]) -> None:
    labels = manifests["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert manifests["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert manifests["Service"]["spec"]["selector"] == labels
    assert manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert manifests["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels
    monitor = manifests["ServiceMonitor"]["spec"]
    assert monitor["selector"]["matchLabels"] == manifests["Service"]["metadata"]["labels"]
    # The rules select job="pixeldp".
    assert manifests["Service"]["metadata"]["labels"][monitor["jobLabel"]] == "pixeldp"
    name = manifests["Deployment"]["metadata"]["name"]
    assert manifests["ScaledObject"]["spec"]["scaleTargetRef"]["name"] == name


def test_ports_and_probes_match(
    manifests: dict[str, dict[str, Any]], container: dict[str, Any]
) -> None:
    [port] = container["ports"]
    assert port == {"name": "http", "containerPort": 8000}
    paths = {
        kind: container[f"{kind}Probe"]["httpGet"]["path"]
        for kind in ("startup", "readiness", "liveness")
    }
    assert paths == {
        "startup": "/health/ready",
        "readiness": "/health/ready",
        "liveness": "/health/live",
    }
    assert all(container[f"{kind}Probe"]["httpGet"]["port"] == "http" for kind in paths)
    [served] = manifests["Service"]["spec"]["ports"]
    assert served["targetPort"] == "http"
    [scraped] = manifests["ServiceMonitor"]["spec"]["endpoints"]
    assert scraped["port"] == served["name"]
    [allowed] = manifests["NetworkPolicy"]["spec"]["ingress"]
    assert allowed["ports"] == [{"port": "http"}]


def test_pods_are_confined_and_have_time_to_end(
    manifests: dict[str, dict[str, Any]], container: dict[str, Any]
) -> None:
    pod = manifests["Deployment"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == USER
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    environment = {one["name"]: one["value"] for one in container["env"]}
    delay = float(environment["PIXELDP_STOP_DELAY_SECONDS"])
    assert delay > 2 * container["readinessProbe"]["periodSeconds"]
    # Pictures in flight are answered by their deadlines at the latest.
    deadline = Settings.model_fields["timeout_ms"].default / 1000
    assert pod["terminationGracePeriodSeconds"] > delay + deadline


def test_the_environment_holds_only_settings(
    manifests: dict[str, dict[str, Any]], container: dict[str, Any]
) -> None:
    pod = manifests["Deployment"]["spec"]["template"]["spec"]
    # Otherwise Kubernetes adds PIXELDP_PORT=tcp://10.0.0.1:80 for the Service of that name.
    assert pod["enableServiceLinks"] is False
    for variable in container["env"]:
        assert known_setting(variable["name"]), variable
    keys = {one["name"]: one.get("value") for one in container["env"]}["PIXELDP_KEYS"]
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    # A folder, not a subPath, so that changes of the secret arrive.
    assert keys.startswith(mounts["keys"]["mountPath"] + "/")
    assert "subPath" not in mounts["keys"]
    assert {volume["name"] for volume in pod["volumes"]} == set(mounts)
