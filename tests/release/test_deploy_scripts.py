"""docker/deploy and docker/smoke with engines of a few lines: what they ask for, and what they leave."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from served import ROOT, make_golden
from tiny_text_bundle import write_bundle

NEW, OLD = f"ghcr.io/acme/reviews@sha256:{'1' * 64}", f"ghcr.io/acme/reviews@sha256:{'0' * 64}"

KUBECTL = """#!/usr/bin/env bash
echo "kubectl $*" >> "$FAKE/calls"
[ -z "${KUBECONFIG:-}" ] || cat "$KUBECONFIG" >> "$FAKE/calls"
case "$3" in
  get) cat "$FAKE/image" ;;
  rollout) exit "${FAKE_ROLLOUT:-0}" ;;
esac
"""
DOCKER = """#!/usr/bin/env bash
echo "docker $*" >> "$FAKE/calls"
[ -z "${DOCKER_HOST:-}" ] || { echo "DOCKER_HOST=$DOCKER_HOST" >> "$FAKE/calls"; ssh host true; }
case "$*" in
  *" ps --quiet evergreen") cat "$FAKE/containers" ;;
  *" up "*) echo new >> "$FAKE/containers" ;;
  inspect*) echo "$FAKE_IMAGE" ;;
esac
"""
SSH = """#!/usr/bin/env bash
echo "ssh $*" >> "$FAKE/calls"
cat "$2" >> "$FAKE/calls"
"""
ENGINE = """#!/usr/bin/env bash
echo "$*" >> "$FAKE/calls"
[ -z "${DATABASE_URL:-}${EVERGREEN_API_KEYS:-}" ] || exit 7
case $1 in
  run)
    words=" $* "
    name=${words#*--name } name=${name%% *}
    echo $$ > "$FAKE/$name.pid"
    if [[ $words == *" batch "* ]]; then
      data=${words%:/data *} data=${data##* }
      exec evergreen batch "$data/in.csv" "$data/out.csv" --bundle "$FAKE_BUNDLE"
    fi
    cd "$FAKE" && EVERGREEN_STATE_DIR="$FAKE/state" exec evergreen serve --bundle "$FAKE_BUNDLE" ;;
  rm) kill "$(cat "$FAKE/$3.pid")" ;;
esac
"""


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    """A folder of tools that write down what they are asked."""
    folder = tmp_path / "fake"
    folder.mkdir()
    for name, text in (("kubectl", KUBECTL), ("docker", DOCKER), ("ssh", SSH), ("engine", ENGINE)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    (folder / "image").write_text(OLD)
    (folder / "containers").write_text("old\n")
    (folder / "calls").touch()
    return folder


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    (folder / "docker").mkdir(parents=True)
    for name in ("deploy", "update"):
        shutil.copy2(ROOT / "docker" / name, folder / "docker" / name)
    return folder


def call(script: Path, fake: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("DEPLOY_", "GITHUB_"))}
    path = f"{fake}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    variables |= {"FAKE": str(fake), "FAKE_IMAGE": OLD, "PATH": path} | environment
    return subprocess.run([script, *arguments], env=variables, capture_output=True, text=True, check=False, timeout=120)


def read_calls(fake: Path, tool: str) -> list[str]:
    return [line for line in (fake / "calls").read_text().splitlines() if line.startswith(tool)]


def test_kubernetes_switches_and_goes_back(repository: Path, fake: Path, tmp_path: Path) -> None:
    deploy, output = repository / "docker/deploy", tmp_path / "output"
    done = call(
        deploy, fake, "kubernetes", NEW, NAMESPACE="prod", GITHUB_OUTPUT=str(output), DEPLOY_KUBECONFIG="secret"
    )
    assert done.returncode == 0, done.stderr
    assert output.read_text() == f"previous={OLD}\n"
    get, change, wait = read_calls(fake, "kubectl")
    assert get.startswith("kubectl --namespace prod get deployment/evergreen")
    assert change == f"kubectl --namespace prod set image deployment/evergreen server={NEW}"
    assert wait == "kubectl --namespace prod rollout status deployment/evergreen --timeout 300s"
    assert "secret" in (fake / "calls").read_text()  # the kubeconfig
    (fake / "calls").write_text("")
    back = call(deploy, fake, "--rollback", "kubernetes")
    assert back.returncode == 0, back.stderr
    assert read_calls(fake, "kubectl")[0].endswith(f"server={OLD}")
    named = call(deploy, fake, "--rollback", "kubernetes", NEW)
    assert named.returncode == 0
    assert read_calls(fake, "kubectl")[-2].endswith(f"server={NEW}")


def test_rollout_that_gets_not_ready_is_undone(repository: Path, fake: Path) -> None:
    done = call(repository / "docker/deploy", fake, "kubernetes", NEW, FAKE_ROLLOUT="1")
    assert done.returncode == 1
    assert "was not deployed" in done.stderr
    assert read_calls(fake, "kubectl")[-1].endswith(f"server={OLD}")


def test_compose_lets_the_new_container_take_over(repository: Path, fake: Path) -> None:
    done = call(repository / "docker/deploy", fake, "compose", NEW)
    assert done.returncode == 0, done.stderr
    assert f"before: {OLD}" in done.stdout
    calls = read_calls(fake, "docker")
    assert any("up --detach --no-deps --no-recreate --scale evergreen=2 evergreen" in line for line in calls)
    assert calls[-2:] == ["docker stop --time 45 old", "docker rm old"]


def test_another_machine_is_reached_with_the_key_given(repository: Path, fake: Path) -> None:
    secrets = {"DEPLOY_HOST": "ops@example.org", "DEPLOY_SSH_KEY": "the key", "DEPLOY_KNOWN_HOSTS": "the host"}
    done = call(repository / "docker/deploy", fake, "compose", NEW, **secrets)
    assert done.returncode == 0, done.stderr
    assert "DOCKER_HOST=ssh://ops@example.org" in (fake / "calls").read_text()
    line = read_calls(fake, "ssh")[0]
    assert "StrictHostKeyChecking=yes host true" in line
    assert "the key" in (fake / "calls").read_text()
    key = Path(line.split()[2])
    assert not key.exists()  # nothing is left
    unknown = call(repository / "docker/deploy", fake, "compose", NEW, DEPLOY_HOST="a@b", DEPLOY_SSH_KEY="k")
    assert unknown.returncode != 0
    assert "DEPLOY_KNOWN_HOSTS" in unknown.stderr


def test_first_deployment_has_nothing_to_go_back_to(repository: Path, fake: Path) -> None:
    (fake / "containers").write_text("")
    assert "before: nothing" in call(repository / "docker/deploy", fake, "compose", NEW).stdout
    back = call(repository / "docker/deploy", fake, "--rollback", "compose")
    assert back.returncode == 1
    assert "nothing to roll back to" in back.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("compose",),
        ("swarm", NEW),
        ("compose", "--privileged"),
        ("compose", "a b"),
        ("compose", NEW, NEW),
        ("--rollback",),
    ],
)
def test_wrong_usage_changes_nothing(repository: Path, fake: Path, arguments: tuple[str, ...]) -> None:
    done = call(repository / "docker/deploy", fake, *arguments)
    assert done.returncode == 2
    assert "usage" in done.stderr
    assert read_calls(fake, "") == []


@pytest.mark.slow
def test_image_is_tested_as_a_container_and_removed(fake: Path, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "text")
    golden = tmp_path / "golden.json"
    make_golden(bundle).save(golden)
    environment = {"ENGINE": str(fake / "engine"), "DATABASE_URL": "postgresql://production"}
    environment |= {"EVERGREEN_API_KEYS": "web:0", "FAKE_BUNDLE": str(bundle), "RUN_FLAGS": "--network host"}
    done = call(ROOT / "docker/smoke", fake, "an-image", str(golden), **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "12 texts alone, together, in a batch" in done.stdout
    assert "3 texts of a file" in done.stdout
    assert_removed(fake)
    write_bundle(tmp_path / "text", seed=2)
    (fake / "calls").write_text("")
    wrong = call(ROOT / "docker/smoke", fake, "an-image", str(golden), **environment)
    assert wrong.returncode == 1
    assert "model.onnx differs" in wrong.stderr
    assert_removed(fake)
    assert call(ROOT / "docker/smoke", fake, "an-image", "/missing.json").returncode == 2


def assert_removed(fake: Path) -> None:
    """No container and no volume is left."""
    calls = (fake / "calls").read_text()
    assert "volume rm --force evergreen-smoke-" in calls
    for file in fake.glob("*.pid"):
        assert not Path("/proc", file.read_text().strip()).exists()
        file.unlink()
