"""The manifests: valid, without rights, and asking routes that exist."""

import shutil
from typing import Any

import pytest
import yaml
from containers import REPOSITORY, call, list_variables

from evergreen.settings import ServingSettings

EXAMPLE = "docker/kubernetes/overlays/example"


@pytest.fixture(scope="module")
def manifests() -> list[dict[str, Any]]:
    """All objects of the example, as kustomize puts them together."""
    if tool := shutil.which("kustomize"):
        text = call(tool, "build", EXAMPLE)
    elif tool := shutil.which("kubectl"):
        text = call(tool, "kustomize", EXAMPLE)
    else:
        pytest.skip("the manifests are NOT checked: no kustomize or kubectl")
    return list(yaml.safe_load_all(text))


def get(manifests: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = (item for item in manifests if item["kind"] == kind)
    return found


def list_pods(manifests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    jobs = [item["spec"]["jobTemplate"]["spec"]["template"] for item in manifests if item["kind"] == "CronJob"]
    return [get(manifests, "Deployment")["spec"]["template"], *jobs]


def get_pod(manifests: list[dict[str, Any]], component: str) -> dict[str, Any]:
    labels = {"app.kubernetes.io/component": component}
    (pod,) = (pod for pod in list_pods(manifests) if labels.items() <= pod["metadata"]["labels"].items())
    return pod


def list_mounts(pod: dict[str, Any]) -> dict[str, tuple[str | None, bool]]:
    """The claim behind each mount, and whether it can be written."""
    claims = {
        volume["name"]: volume.get("persistentVolumeClaim", {}).get("claimName") for volume in pod["spec"]["volumes"]
    }
    (container,) = pod["spec"]["containers"]
    return {
        mount["mountPath"]: (claims[mount["name"]], not mount.get("readOnly", False))
        for mount in container["volumeMounts"]
    }


def test_manifests_are_valid(manifests: list[dict[str, Any]], tmp_path: Any) -> None:
    file = tmp_path / "all.yaml"
    file.write_text(yaml.safe_dump_all(manifests))
    call("kubernetes-validate", "--strict", str(file))


def test_pods_have_no_rights_and_set_limits(manifests: list[dict[str, Any]]) -> None:
    for pod in list_pods(manifests):
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        assert pod["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["spec"]["containers"]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is security["privileged"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]}
            for bound in ("requests", "limits"):
                assert {"cpu", "memory"} <= set(container["resources"][bound])


def test_pods_share_the_reports_alone(manifests: list[dict[str, Any]]) -> None:
    own = {"/state": (None, True), "/tmp": (None, True)}  # noqa: S108 - a mount
    shared = "/reports/monitoring"
    assert list_mounts(get_pod(manifests, "prune")) == own
    assert list_mounts(get_pod(manifests, "server")) == own | {shared: ("evergreen-reports", False)}
    written = {"/state": ("evergreen-monitor", True), shared: ("evergreen-reports", True)}
    assert list_mounts(get_pod(manifests, "monitor")) == own | written
    modes = {item["metadata"]["name"]: item["spec"]["accessModes"] for item in manifests if "Claim" in item["kind"]}
    assert modes == {"evergreen-monitor": ["ReadWriteOnce"], "evergreen-reports": ["ReadWriteMany"]}
    for component in ("server", "monitor"):
        assert get_pod(manifests, component)["spec"]["securityContext"]["fsGroup"] == 10001


def test_jobs_run_commands_that_exist(manifests: list[dict[str, Any]]) -> None:
    for component, arguments in (("prune", ["log", "prune"]), ("monitor", ["monitor", "--alert"])):
        (container,) = get_pod(manifests, component)["spec"]["containers"]
        assert container["args"] == arguments
        call("evergreen", *arguments, "--help")
    assert "evergreen-monitor" in get_pod(manifests, "monitor")["spec"]["containers"][0]["image"]


def test_probes_ask_routes_that_exist(manifests: list[dict[str, Any]]) -> None:
    (container,) = get(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    source = (REPOSITORY / "src/evergreen/serving/app.py").read_text()
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    for probe, route in (("startupProbe", "/health"), ("livenessProbe", "/health"), ("readinessProbe", "/ready")):
        request = container[probe]["httpGet"]
        assert request["path"] == route
        assert f'"{route}"' in source
        assert ports[request["port"]] == ServingSettings.model_fields["port"].default
    assert get(manifests, "Service")["spec"]["ports"][0]["targetPort"] in ports


def test_update_never_drops_capacity(manifests: list[dict[str, Any]]) -> None:
    deployment = get(manifests, "Deployment")["spec"]
    assert deployment["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert "replicas" not in deployment  # an apply would undo what the autoscaler does
    autoscaler = get(manifests, "HorizontalPodAutoscaler")["spec"]
    assert autoscaler["scaleTargetRef"]["name"] == get(manifests, "Deployment")["metadata"]["name"]
    assert autoscaler["minReplicas"] >= 2
    assert get(manifests, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    pod = deployment["template"]["spec"]
    drain = next(
        float(item["value"]) for item in pod["containers"][0]["env"] if item["name"] == "EVERGREEN_DRAIN_SECONDS"
    )
    assert pod["terminationGracePeriodSeconds"] > drain + ServingSettings.model_fields["request_timeout"].default


def test_selectors_find_the_pods(manifests: list[dict[str, Any]]) -> None:
    labels = get(manifests, "Deployment")["spec"]["template"]["metadata"]["labels"].items()
    for kind in ("Deployment", "PodDisruptionBudget"):
        assert get(manifests, kind)["spec"]["selector"]["matchLabels"].items() <= labels
    assert get(manifests, "Service")["spec"]["selector"].items() <= labels
    for pod in list_pods(manifests):
        policy = get(manifests, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"]
        assert policy.items() <= pod["metadata"]["labels"].items()


def test_variables_are_read(manifests: list[dict[str, Any]]) -> None:
    for pod in list_pods(manifests):
        for container in pod["spec"]["containers"]:
            assert {item["name"] for item in container.get("env", ())} <= list_variables()
