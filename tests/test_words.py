"""A docstring begins with what the thing is or does, and so does what it says of an argument."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "ghostify"
# A docstring that begins so names only a property of the thing, or a question about it.
BEGINNINGS = ("Of", "What", "Whether")
SECTIONS = ("Args:", "Attributes:")


def documented(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Names and docstrings of a module and of the public classes and functions in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            name = getattr(node, "name", "the module")
            text = ast.get_docstring(node)
            if text and not name.startswith("_"):
                yield name, text


def described(text: str) -> Iterator[tuple[str, str]]:
    """Names of arguments and attributes in a docstring, and what it says of them."""
    section = ""
    for line in text.splitlines():
        if line and not line.startswith(" "):
            section = line
        entry = re.match(r" {4}(\w[\w, *]*): +(.*)", line)
        if entry and section in SECTIONS:
            yield entry.group(1), entry.group(2)


def badly_begun(source: str) -> list[str]:
    """The names whose docstring or description begins with one of the words, and how."""
    found = []
    for name, text in documented(ast.parse(source)):
        sayings = [(name, text), *((f"{name}({argument})", saying) for argument, saying in described(text))]
        for place, saying in sayings:
            if re.match(rf"({'|'.join(BEGINNINGS)})\b", saying):
                found.append(f"{place}: {saying.splitlines()[0]}")
    return found


@pytest.mark.parametrize("file", sorted(SOURCE.rglob("*.py")), ids=lambda file: str(file.relative_to(SOURCE)))
def test_a_docstring_begins_with_what_the_thing_is_or_does(file: Path) -> None:
    assert badly_begun(file.read_text()) == []


def test_docstrings_and_arguments_that_begin_otherwise_are_found() -> None:
    source = '''"""What it does."""
class Layer:
    """A layer.

    Args:
        maps: Of its output.
        bias, order: Whether
            there are some.
        size: Pixels. Of what: of a side.
    Attributes:
        kind: What: it is.
    Raises:
        ValueError: Of no matter.
    """
    def cut(self):
        """Whether it is cut."""
    def _inner(self):
        """Of no interest to anybody else."""
def whatever():
    """Whatever it is, offered."""
'''
    assert badly_begun(source) == [
        "the module: What it does.",
        "Layer(maps): Of its output.",
        "Layer(bias, order): Whether",
        "Layer(kind): What: it is.",
        "cut: Whether it is cut.",
    ]
