"""What is installed is what is there."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
CODE = ("convert", "loaders", "model_cards", "schemas")


def folders_with_code() -> set[str]:
    found = {path.parent.relative_to(ROOT) for folder in CODE for path in (ROOT / folder).rglob("*.py")}
    return {".".join(("g4convert", *folder.parts)) for folder in found} | {"g4convert"}


def test_every_folder_with_code_is_a_listed_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())

    assert set(project["tool"]["setuptools"]["packages"]) == folders_with_code()


def test_the_root_package_holds_a_docstring_and_nothing_else() -> None:
    (statement,) = ast.parse((ROOT / "__init__.py").read_text()).body
    assert isinstance(statement, ast.Expr)
    assert isinstance(statement.value, ast.Constant)
    assert [path.name for path in ROOT.glob("*.py")] == ["__init__.py"]


ALLOWED = {
    "schemas": {"schemas"},
    "loaders": {"loaders", "schemas"},
    "model_cards": {"model_cards", "schemas"},
    "convert": {"convert", "loaders", "model_cards", "schemas"},
}


def test_dependencies_run_one_way() -> None:
    for folder, allowed in ALLOWED.items():
        for path in (ROOT / folder).rglob("*.py"):
            assert set(neighbours(path)) <= allowed, path


def neighbours(path: Path) -> list[str]:
    """The top folders that a module imports from, relatively."""
    parts = ("g4convert", *path.relative_to(ROOT).with_suffix("").parts)
    targets = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = parts[: -node.level]
            target = (*base, *(node.module or node.names[0].name).split("."))
            targets.append(target[1])
    return targets
