"""The rooms of the house: which may import which, how many files each holds, what each says of itself."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("flows", "tasks", "sampling", "validations")
MAX_FILES = 13  # of a room, its __init__.py not counted

# Every arrow between rooms: a room, and the rooms that it imports. A room is a folder; `sampling` itself is two:
# what every other room of it stands on, and the library's face, which stands on all of them.
BASE = {"bounds", "config", "environment", "errors", "links", "permissions", "record", "results"}
ARROWS = {
    "flows/cli": "flows flows/cli/bench flows/demo flows/orchestration tasks tasks/publish tasks/source"
    " sampling sampling/engine sampling/models sampling/prompts sampling/served sampling/base validations",
    "flows/cli/bench": "flows/demo flows/orchestration tasks/store"
    " sampling sampling/models sampling/processes sampling/prompts sampling/served sampling/base",
    "flows/demo": "flows flows/orchestration tasks sampling sampling/prompts sampling/base",
    "flows": "flows/orchestration tasks tasks/publish tasks/publish/hub tasks/run tasks/source tasks/store tasks/worker"
    " sampling/models sampling/base validations validations/report",
    "flows/orchestration": "tasks tasks/publish tasks/run tasks/store tasks/worker"
    " sampling/processes sampling/served sampling/base",
    "tasks/publish/hub": "tasks/publish tasks/run tasks/store sampling/served sampling/base",
    "tasks/publish": "tasks tasks/run tasks/source tasks/store tasks/worker sampling/base"
    " validations validations/measure validations/report",
    "tasks/worker": "tasks tasks/run tasks/store sampling sampling/processes sampling/prompts sampling/served"
    " sampling/base validations validations/measure",
    "tasks/run": "tasks tasks/source tasks/store sampling/models sampling/prompts sampling/base validations/measure",
    "tasks/source": "tasks sampling/processes sampling/prompts sampling/base validations/measure",
    "tasks/store": "sampling/base",
    "tasks": "sampling/served sampling/base validations",
    "sampling": "sampling/engine sampling/mixture/kernel sampling/models sampling/prompts sampling/served"
    " sampling/workers sampling/base",
    "sampling/served": "sampling/engine sampling/models sampling/processes sampling/base",
    "sampling/workers": "sampling/engine sampling/models sampling/processes sampling/base",
    "sampling/engine": "sampling/mixture sampling/mixture/kernel sampling/models sampling/processes sampling/base",
    "sampling/mixture/kernel": "sampling/mixture sampling/base",
    "sampling/mixture": "sampling/base",
    "sampling/models": "sampling/processes sampling/prompts sampling/base",
    "sampling/prompts": "sampling/processes sampling/base",
    "sampling/processes": "sampling/base",
    "validations/report": "validations validations/measure",
    "validations": "validations/measure",
    "validations/measure": "validations/text sampling/processes sampling/base",
}
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}


def room(path: Path) -> str:
    """The room that a file lies in."""
    folder = path.parent.relative_to(ROOT).as_posix()
    return "sampling/base" if folder == "sampling" and path.stem in BASE else folder


def imports(path: Path) -> set[str]:
    """Our own modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
            if f"{node.module}.{node.names[0].name}" in MODULES:  # `from package import module`
                found.discard(node.module)
    return found & MODULES.keys()


def test_rooms_import_one_way() -> None:
    seen: dict[str, set[str]] = {}
    for path in FILES:
        for module in imports(path):
            if room(path) != room(MODULES[module]):
                seen.setdefault(room(path), set()).add(room(MODULES[module]))
    assert seen == {name: set(others.split()) for name, others in ARROWS.items()}
    tuple(TopologicalSorter(seen).static_order())  # raises CycleError


def test_files_import_one_way() -> None:
    """But a package's own __init__.py, which names what its modules hold."""
    graph = {name: imports(path) - {name} for name, path in MODULES.items() if path.stem != "__init__"}
    tuple(TopologicalSorter(graph).static_order())


def rooms() -> list[str]:
    """Every folder that holds code."""
    return sorted({path.parent.relative_to(ROOT).as_posix() for path in FILES})


@pytest.mark.parametrize("folder", rooms())
def test_a_room_says_what_lives_in_it(folder: str) -> None:
    files = [path for path in (ROOT / folder).glob("*.py") if path.stem != "__init__"]
    assert len(files) <= MAX_FILES
    said = ast.get_docstring(ast.parse((ROOT / folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    assert said.count(".") >= 2, "what lives here, and what may be imported from where: two sentences"
