"""Every module that a stage imports is a dependency of it in dvc.yaml, so that DVC reruns it when one changes."""

import ast
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
STAGES: dict[str, Any] = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
# How a stage starts, logs, reads settings and records its run changes nothing of what it writes.
PLUMBING = {
    f"src/evergreen/{name}.py" for name in ("__init__", "errors", "logs", "params", "settings", "stage", "tracking")
} | {f"src/evergreen/{line}/__init__.py" for line in ("text", "video")}


def find_imports(file: Path) -> set[Path]:
    """Files of this package that a file imports, functions' own imports included, type checkers' excluded."""
    names = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    paths = [ROOT / "src" / name.replace(".", "/") for name in names if name.split(".")[0] == "evergreen"]
    return {path.with_suffix(".py") for path in paths if path.with_suffix(".py").exists()}


def find_all_imports(file: Path) -> set[str]:
    seen: set[Path] = set()
    waiting = [file]
    while waiting:
        new = find_imports(waiting.pop()) - seen
        seen |= new
        waiting += [path for path in new if str(path.relative_to(ROOT)) not in PLUMBING]
    return {str(path.relative_to(ROOT)) for path in seen} - PLUMBING


@pytest.mark.parametrize("stage", STAGES)
def test_dependencies_are_the_imports(stage: str) -> None:
    script = STAGES[stage]["cmd"].split()[1]
    listed = {dep for dep in STAGES[stage]["deps"] if dep.endswith(".py")}
    assert listed == find_all_imports(ROOT / script) | {script}


def test_nested_imports_are_seen() -> None:
    assert "src/evergreen/sources.py" in find_all_imports(ROOT / "pipelines/train.py")


@pytest.mark.parametrize("stage", STAGES)
def test_templates_are_dependencies(stage: str) -> None:
    deps = STAGES[stage]["deps"]
    for line in ("text", "video"):
        folder = f"src/evergreen/{line}"
        assert (f"{folder}/card.py" in deps) == (f"{folder}/card_template.md" in deps)
