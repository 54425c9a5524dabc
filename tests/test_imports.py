"""The laws of the tree: imports go one way, and the pages name files that are there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BELOW = {
    "worldmodel": set(),
    "sim": set(),
    "policies": {"worldmodel"},
    "robot": {"worldmodel", "policies", "sim"},
    "envs": {"worldmodel", "policies", "sim"},
}


def imported(path):
    """Top-level names of everything that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("package", BELOW)
def test_a_package_imports_only_those_below_it(package):
    ours = {*BELOW, "configs", "tests"} - {package}
    files = list((ROOT / package).rglob("*.py"))
    assert files
    reached = {(str(path.relative_to(ROOT)), name) for path in files for name in imported(path) if name in ours}
    assert {(path, name) for path, name in reached if name not in BELOW[package]} == set()


def test_the_pages_name_files_that_are_there():
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        text = re.sub(r"`[^`]*` at [0-9a-f]{7}", "", page.read_text())  # files of an earlier commit
        named = re.findall(rf"\b(?:{'|'.join([*BELOW, 'configs', 'tests', 'docs'])})/[\w/.-]+\.\w+", text)
        assert [name for name in named if not (ROOT / name).exists()] == [], page
