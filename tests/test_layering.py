"""sweeps imports pipeline imports mtm, never back; mtm is light; MLflow has one importer."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {"mtm": {"mtm"}, "pipeline": {"mtm", "pipeline"}, "sweeps": {"mtm", "pipeline", "sweeps"}}


def imports(path: Path) -> set[str]:
    """Top-level names of everything a file imports, at any depth."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("package", list(ALLOWED))
def test_packages_import_downwards_only(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        wrong = imports(path) & set(ALLOWED) - ALLOWED[package]
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_mtm_needs_torch_numpy_and_safetensors_only() -> None:
    allowed = {"mtm", "torch", "numpy", "safetensors", *sys.stdlib_module_names}
    for path in (ROOT / "mtm").rglob("*.py"):
        assert imports(path) <= allowed, path


def test_importing_mtm_pulls_in_nothing_else() -> None:
    heavy = (
        "{'ray', 'mlflow', 'gymnasium', 'minari', 'pandas', 'pyarrow', 'matplotlib', 'rich', 'tyro'}"
    )
    code = f"import sys, mtm; print({heavy} & {{m.split('.')[0] for m in sys.modules}} or 'nothing')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "nothing"


def test_mlflow_is_imported_in_one_place() -> None:
    files = [p for package in ALLOWED for p in (ROOT / package).rglob("*.py")]
    assert [p.name for p in files if "mlflow" in imports(p)] == ["tracking.py"]
