"""What runs beside the server: compose, the proxy, Prometheus' rules and Grafana's dashboard, by their own tools."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from containers import REPOSITORY, call, list_variables
from running import RunningServer, run_server
from tiny_text_bundle import write_bundle

from evergreen.settings import ServingSettings

DOCKER = REPOSITORY / "docker"
COMPOSE_NAMES = {"POSTGRES_PASSWORD", "EVERGREEN_IMAGE", "EVERGREEN_MONITOR_IMAGE", "EVERGREEN_ADDRESS"}
"""What compose.yaml reads for itself."""
VERDICT = {
    "status": "stale",
    "model": "text 1",
    "until": "2026-05-01T00:00:00Z",
    "signals": [{"signal": "data_quality", "status": "alarm", "value": 3, "threshold": 1}],
}
"""What the server reads of the monitor's."""


def read_yaml(path: str) -> Any:
    return yaml.safe_load((DOCKER / path).read_text())


def need(tool: str) -> str:
    if not shutil.which(tool):
        pytest.skip(f"NOT checked: no {tool}")
    return tool


def test_compose_file_is_valid() -> None:
    call("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "docker/compose.yaml")


def test_compose_sets_only_variables_that_are_read() -> None:
    services = read_yaml("compose.yaml")["services"]
    for name in ("evergreen", "monitor"):
        assert set(services[name]["environment"]) <= list_variables()
    asked = set(re.findall(r"\$\{(\w+)", (DOCKER / "compose.yaml").read_text()))
    assert asked <= list_variables() | COMPOSE_NAMES


@pytest.mark.parametrize("name", ["evergreen", "monitor", "evidently"])
def test_compose_service_has_no_rights(name: str) -> None:
    service = read_yaml("compose.yaml")["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


def test_compose_lets_open_requests_end() -> None:
    grace = int(read_yaml("compose.yaml")["services"]["evergreen"]["stop_grace_period"].removesuffix("s"))
    defaults = ServingSettings()
    assert grace > defaults.request_timeout + defaults.drain_seconds


def test_compose_shows_what_the_monitor_writes() -> None:
    services = read_yaml("compose.yaml")["services"]
    server, monitor, page = (services[name] for name in ("evergreen", "monitor", "evidently"))
    assert {"state:/state", "reports:/reports/monitoring:ro"} <= set(server["volumes"])
    assert {"state:/state", "reports:/reports/monitoring"} == set(monitor["volumes"])
    assert page["volumes"] == ["state:/state:ro"]
    assert monitor["environment"]["DATABASE_URL"] == server["environment"]["DATABASE_URL"].replace(
        ":?set POSTGRES_PASSWORD", ""
    )
    call("evergreen", *monitor["command"], "--help")


def test_compose_mounts_files_that_are_there() -> None:
    for name, service in read_yaml("compose.yaml")["services"].items():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (DOCKER / source).exists(), (name, source)


def test_proxy_configuration_is_valid() -> None:
    call(need("haproxy"), "-c", "-f", "docker/haproxy/haproxy.cfg")


def test_prometheus_takes_its_files() -> None:
    call(need("promtool"), "check", "config", "docker/prometheus/prometheus.yml")


def test_alerts_fire_when_they_should() -> None:
    call(need("promtool"), "test", "rules", "docker/prometheus/alerts_test.yml")


def test_each_alert_is_tested_both_ways() -> None:
    alerts = {rule["alert"] for rule in read_yaml("prometheus/alerts.yml")["groups"][0]["rules"]}
    silent, loud = set(), set()
    for case in read_yaml("prometheus/alerts_test.yml")["tests"]:
        for test in case["alert_rule_test"]:
            (loud if test["exp_alerts"] else silent).add(test["alertname"])
    assert alerts == silent == loud


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, set[str]]]:
    """The labels of each metric of a server that has done a little of everything."""
    folder = tmp_path_factory.mktemp("metrics")
    (folder / "reports").mkdir()
    (folder / "reports/verdict.json").write_text(json.dumps(VERDICT))
    with run_server(folder, write_bundle(folder / "text")) as server:
        yield _exercise(server)


def _exercise(server: RunningServer) -> dict[str, set[str]]:
    prediction = server.classify("a good flight")
    feedback = {"prediction_id": prediction["id"], "label": "positive", "source": "test"}
    server.client.post("/v1/feedback", json=feedback).raise_for_status()
    job = server.client.post("/v1/batches", files={"file": ("a.csv", b"text\na\n")}).raise_for_status()
    server.wait_for_job(job.headers["Location"])
    labels: dict[str, set[str]] = {"up": {"job", "instance"}}
    for line in server.client.get("/metrics").text.splitlines():
        if match := re.match(r"# TYPE (\w+) (\w+)", line):
            labels.setdefault(match[1], set())
        elif match := re.match(r"(\w+)(?:\{(.*)\})? ", line):
            labels.setdefault(match[1], set()).update(re.findall(r"(\w+)=", match[2] or ""))
    return labels


def list_queries() -> list[str]:
    dashboard = json.loads((DOCKER / "grafana/dashboards/evergreen.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return queries + [rule["expr"] for rule in read_yaml("prometheus/alerts.yml")["groups"][0]["rules"]]


@pytest.mark.parametrize("number", range(len(list_queries())))
def test_queries_name_metrics_and_labels_that_exist(number: int, metrics: dict[str, set[str]]) -> None:
    query = list_queries()[number]
    names = set(re.findall(r"\b(up|evergreen_\w+)\b", re.sub(r'"[^"]*"', '""', query)))
    assert names, query
    for name in names:
        assert name in metrics or f"{name}_total" in metrics, f"{name} is no metric of the server"
    for name, selector in re.findall(r"(\w+)\{([^}]*)\}", query):
        for label in re.findall(r"(\w+)\s*(?:=|!=|=~|!~)", selector):
            assert label in metrics[name] | {"job", "instance"}, f"{name} has no label {label}"
    for group in re.findall(r"\bby \(([^)]*)\)", query):
        for label in re.findall(r"\w+", group):
            assert any(label in metrics.get(name, set()) for name in names) or label == "instance", label


def test_dashboard_queries_are_promql(tmp_path: Path) -> None:
    """As rules, which promtool parses; Grafana's own variable becomes a time."""
    promtool = need("promtool")
    rules = [
        {"record": f"query:{number}", "expr": query.replace("$__rate_interval", "5m")}
        for number, query in enumerate(list_queries())
    ]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run([promtool, "check", "rules", str(file)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_alerts_and_operations_know_the_same_metrics(metrics: dict[str, set[str]]) -> None:
    text = (REPOSITORY / "docs/operations.md").read_text()
    ours = {re.sub(r"_(bucket|count|sum|created)$", "", name) for name in metrics if name.startswith("evergreen_")}
    undocumented = {name for name in ours if f"`{name}" not in text and f"`{name.removesuffix('_total')}" not in text}
    assert not undocumented
