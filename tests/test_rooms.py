"""Imports point downward only, as docs/architecture.md draws them."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "ghostify"
# From the top floor to the ground. A room may import from itself and from the floors below it.
FLOORS = [
    ["__main__"],
    ["cli"],
    ["__init__"],
    ["detect", "segment"],
    ["verbs"],
    ["jobs"],
    ["planning"],
    ["network_file", "inference"],
    ["transform"],
    ["changes"],
    ["fitting"],
    ["structure"],
    ["models"],
    ["measure", "data", "layers"],
    ["bf16", "plain_part", "wrappers", "needed"],
    ["allocator", "atomic", "hooks", "model_names", "modes", "progress", "timelimit", "errors"],
]
FLOOR = {room: height for height, rooms in enumerate(reversed(FLOORS)) for room in rooms}


def room_of(file: Path) -> str:
    return file.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_rooms(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    ours = [name.split(".") for name in names if name.split(".")[0] == "ghostify"]
    return {parts[1] if len(parts) > 1 and parts[1] in FLOOR else "__init__" for parts in ours}


@pytest.mark.parametrize("file", sorted(SOURCE.rglob("*.py")), ids=lambda file: str(file.relative_to(SOURCE)))
def test_a_file_imports_only_from_its_room_and_from_below(file: Path) -> None:
    here = room_of(file)
    assert here in FLOOR, f"{here} has no floor: give it one here and in docs/architecture.md"
    for room in imported_rooms(ast.parse(file.read_text())):
        assert room == here or FLOOR[room] < FLOOR[here], f"{here} imports {room}, which is not below it"


def test_the_page_shows_every_room() -> None:
    page = (Path(__file__).parents[1] / "docs" / "architecture.md").read_text()
    for room in FLOOR:
        assert f"`{room}" in page, f"docs/architecture.md does not show {room}"


def test_only_the_command_line_prints() -> None:
    for file in SOURCE.rglob("*.py"):
        calls = [n for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Call)]
        prints = [n for n in calls if isinstance(n.func, ast.Name) and n.func.id == "print"]
        assert not prints or room_of(file) == "cli", file
