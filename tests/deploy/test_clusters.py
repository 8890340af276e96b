"""The manifests for KubeRay and KServe: valid, in step with deploy/ray and with each other."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.deploy.test_container import USER, known_setting
from tests.deploy.test_kubernetes import FOLDER as PLAIN
from tests.deploy.test_kubernetes import check, load
from tests.deploy.tools import ROOT

DEPLOY = ROOT / "deploy"
FOLDERS = (DEPLOY / "kuberay", DEPLOY / "kserve")
MANIFESTS = sorted(
    path for folder in FOLDERS for path in folder.rglob("*.yaml") if path.stem != "kustomization"
)
SERVE = yaml.safe_load((DEPLOY / "ray" / "serve.yaml").read_text())
RAY_SERVICE = load(DEPLOY / "kuberay" / "base" / "rayservice.yaml")["spec"]
CLUSTER = RAY_SERVICE["rayClusterConfig"]
[WORKERS] = CLUSTER["workerGroupSpecs"]
PREDICTOR = load(DEPLOY / "kserve" / "base" / "inferenceservice.yaml")["spec"]["predictor"]
# What a predictor has beside the members of a pod.
OF_KSERVE = {"labels", "minReplicas", "maxReplicas", "autoScaling"}


def pods(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the specifications of the pods of a RayService or an InferenceService."""
    spec = manifest.get("spec", {})
    if manifest["kind"] == "RayService":
        cluster = spec["rayClusterConfig"]
        groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
        return [group["template"]["spec"] for group in groups]
    if manifest["kind"] == "InferenceService":
        predictor = spec["predictor"]
        return [{name: predictor[name] for name in predictor.keys() - OF_KSERVE}]
    return []


def check_whole(manifest: dict[str, Any]) -> None:
    """Check a manifest by its schema, and its pods by Kubernetes' own."""
    check(manifest)
    for spec in pods(manifest):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, "spec": spec}
        kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)


def built(folder: Path, tmp_path: Path, *components: str) -> list[dict[str, Any]]:
    """Return what kustomize makes of a folder with some of its components."""
    shutil.copytree(folder, tmp_path / folder.name)
    root = tmp_path / folder.name / "kustomization.yaml"
    text = root.read_text()
    for name in components:
        assert re.search(rf"^  # - {name}\b", text, re.M), name
        text = re.sub(rf"^  # - {name}\b", f"  - {name}", text, flags=re.M)
    root.write_text(text.replace("components: []", "components:") if components else text)
    tool = next((name for name in ("kustomize", "kubectl") if shutil.which(name)), None)
    if tool is None:
        pytest.skip("NOT TESTED: neither kustomize nor kubectl is installed here")
    command = [tool, *(["kustomize"] if tool == "kubectl" else ["build"]), str(root.parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_a_manifest_follows_its_schema(path: Path) -> None:
    manifest = load(path)
    check_whole(manifest)
    # The check does find faults.
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        check_whole({**manifest, "metadta": {}})
    for spec in pods(manifest):
        spec["containers"][0]["imag"] = "pixeldp"
        with pytest.raises(kubernetes_validate.ValidationError):
            check_whole(manifest)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
@pytest.mark.parametrize("whole", [False, True], ids=["base", "whole"])
def test_what_kustomize_builds_follows_the_schemas(
    folder: Path, whole: bool, tmp_path: Path
) -> None:
    components = {"kuberay": ["gpu"], "kserve": ["canary", "gpu"]}[folder.name] if whole else []
    found = built(folder, tmp_path, *components)
    served = [one for one in found if pods(one)]
    assert len(served) == (2 if "canary" in components else 1)
    for manifest in found:
        check_whole(manifest)
    for manifest in served:
        spec = pods(manifest)[-1]
        [container] = spec["containers"]
        assert container["image"].startswith("registry.example.com/pixeldp")
        limits = container["resources"]["limits"]
        assert limits.get("nvidia.com/gpu") == ("1" if whole else None)
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert spec["securityContext"]["runAsUser"] == USER


def test_the_application_on_kubernetes_is_that_of_deploy_ray() -> None:
    there = yaml.safe_load(RAY_SERVICE["serveConfigV2"])
    [application] = there["applications"]
    keys = application["runtime_env"]["env_vars"].pop("PIXELDP_KEYS")
    [deployment] = application["deployments"]
    assert deployment.pop("max_replicas_per_node") == 1
    assert deployment["ray_actor_options"].pop("num_cpus") == int(
        WORKERS["rayStartParams"]["num-cpus"]
    )
    wanted = json.loads(json.dumps(SERVE))
    [plain] = wanted["applications"][0]["deployments"]
    del plain["ray_actor_options"]["num_cpus"]
    assert there == wanted
    for group in (CLUSTER["headGroupSpec"], WORKERS):
        [container] = group["template"]["spec"]["containers"]
        [mount] = [one for one in container["volumeMounts"] if one["name"] == "keys"]
        assert keys.startswith(mount["mountPath"] + "/")
    scaling = plain["autoscaling_config"]
    assert WORKERS["minReplicas"] == scaling["min_replicas"]
    assert WORKERS["maxReplicas"] == scaling["max_replicas"]


def test_with_gpus_it_is_the_same_application(tmp_path: Path) -> None:
    def application(manifests: list[dict[str, Any]]) -> Any:
        [service] = [one for one in manifests if one["kind"] == "RayService"]
        [workers] = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
        config = yaml.safe_load(service["spec"]["serveConfigV2"])
        options = config["applications"][0]["deployments"][0]["ray_actor_options"]
        assert workers["rayStartParams"].get("num-gpus", "0") == str(options.pop("num_gpus", 0))
        return config

    plain = built(DEPLOY / "kuberay", tmp_path / "plain")
    assert application(built(DEPLOY / "kuberay", tmp_path / "gpu", "gpu")) == application(plain)


def test_every_process_of_ray_has_the_variables_of_deploy_ray() -> None:
    lines = shlex.split((DEPLOY / "ray" / "ray.env").read_text(), comments=True)
    wanted = dict(line.split("=", 1) for line in lines)
    for group in (CLUSTER["headGroupSpec"], WORKERS):
        [container] = group["template"]["spec"]["containers"]
        given = {one["name"]: one["value"] for one in container["env"]}
        assert wanted.items() <= given.items()


def test_ray_is_the_locked_one() -> None:
    locked = re.search(r"^ray==(\S+)", (ROOT / "locks" / "ray.txt").read_text(), re.M)
    assert locked
    assert locked[1] == CLUSTER["rayVersion"]


def test_no_request_is_killed_before_its_deadline() -> None:
    variables = SERVE["applications"][0]["runtime_env"]["env_vars"]
    longest = int(variables["PIXELDP_TIMEOUT_MS_LIMIT"]) / 1000
    assert WORKERS["template"]["spec"]["terminationGracePeriodSeconds"] > longest + 30
    given = {one["name"]: one["value"] for one in PREDICTOR["containers"][0]["env"]}
    longest = int(given["PIXELDP_TIMEOUT_MS_LIMIT"]) / 1000
    delay = float(given["PIXELDP_STOP_DELAY_SECONDS"])
    assert PREDICTOR["terminationGracePeriodSeconds"] > longest + delay


def test_the_predictor_is_the_pod_of_deploy_kubernetes() -> None:
    pod = load(PLAIN / "base" / "deployment.yaml")["spec"]["template"]["spec"]
    [plain], [container] = pod["containers"], PREDICTOR["containers"]
    differs = ("name", "ports", "env", "startupProbe", "readinessProbe", "livenessProbe")
    for name in plain.keys() | container.keys():
        assert name in differs or plain[name] == container[name], name
    for name in ("securityContext", "volumes", "terminationGracePeriodSeconds"):
        assert PREDICTOR[name] == pod[name], name
    given = {one["name"]: one["value"] for one in container["env"]}
    assert given.pop("PROTOCOL") == "v2"
    [port] = container["ports"]
    assert int(given.pop("PIXELDP_PORT")) == port["containerPort"]
    assert given == {one["name"]: one["value"] for one in plain["env"]}
    assert all(map(known_setting, given))
    probed = {container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("readiness", "liveness")}
    assert probed == {"/v2/health/ready", "/v2/health/live"}


def test_kserve_scales_by_the_queue_as_deploy_kubernetes_does() -> None:
    scaled = load(PLAIN / "scaling" / "scaledobject.yaml")["spec"]
    queued = scaled["triggers"][0]["metadata"]
    [metric] = PREDICTOR["autoScaling"]["metrics"]
    source = metric["external"]["metric"]
    assert source["serverAddress"] == queued["serverAddress"]
    assert metric["external"]["target"] == {"type": "Value", "value": queued["threshold"]}
    name = re.search(r"\((pixeldp_\w+)", source["query"])
    assert name
    assert f"({name[1]}" in queued["query"]
    assert (PREDICTOR["minReplicas"], PREDICTOR["maxReplicas"]) == (
        scaled["minReplicaCount"],
        scaled["maxReplicaCount"],
    )
    metadata = load(DEPLOY / "kserve" / "base" / "inferenceservice.yaml")["metadata"]
    assert metadata["annotations"] == {
        # KServe leaves scaling to KEDA only in this mode.
        "serving.kserve.io/deploymentMode": "Standard",
        "serving.kserve.io/autoscalerClass": "keda",
    }


def test_a_canary_has_a_share_of_the_requests(tmp_path: Path) -> None:
    found = built(DEPLOY / "kserve", tmp_path, "canary")
    names = {one["metadata"]["name"] for one in found if one["kind"] == "InferenceService"}
    [route] = [one for one in found if one["kind"] == "HTTPRoute"]
    [rule] = route["spec"]["rules"]
    # KServe names the Service of a predictor so.
    assert {one["name"] for one in rule["backendRefs"]} == {f"{name}-predictor" for name in names}
    assert sum(one["weight"] for one in rule["backendRefs"]) == 100
    assert all(one["port"] == 80 for one in rule["backendRefs"])


def test_every_replica_is_scraped() -> None:
    for folder, container in (
        (DEPLOY / "kuberay" / "base", WORKERS["template"]["spec"]["containers"][0]),
        (DEPLOY / "kserve", PREDICTOR["containers"][0]),
    ):
        monitor = load(folder / "podmonitor.yaml")["spec"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        scraped = {endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]}
        assert scraped == ports.keys() - {"serve"}
    labels = WORKERS["template"]["metadata"]["labels"]
    monitor = load(DEPLOY / "kuberay" / "base" / "podmonitor.yaml")["spec"]
    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    assert PREDICTOR["labels"].items() <= labels.items()
