"""The documents: commands that exist, code that compiles, figures that were measured."""

import ast
import csv
import json
import re
import shlex
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import click
import pytest

import ghostify
from ghostify.cli import cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RESULTS = ROOT / "benchmarks" / "results"
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.S | re.M)
# Figures on a line, since the marker before, are those of a file's rows, of all or of those with such values.
MARKER = re.compile(r"(.*?)<!-- figures: ([^;>]*?)((?:;[^;>]*?)*) -->")
DECIMAL = re.compile(r"(?<![\w.])\d[\d,]*\.\d+(?![\w.]|× )")
# Pages of results, whose tables are made from files as a whole: each row with decimals names its file.
MARKED = (
    "detection.md",
    "int8.md",
    "keeping.md",
    "performance.md",
    "planning.md",
    "results.md",
    "run.md",
    "segmentation.md",
)


def names(page: Path) -> str:
    return str(page.relative_to(ROOT))


def commands(text: str) -> Iterator[list[str]]:
    """The calls of ghostify in a page's blocks and sentences, split into words; what is left out with … is not one."""
    blocks = [block.replace("\\\n", " ") for language, block in FENCE.findall(text) if not language]
    lines = [line for block in blocks for line in block.splitlines()]
    lines += [" ".join(code.split()) for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", FENCE.sub("", text))]
    for line in lines:
        call = re.sub(r"^torchrun .*?-m ghostify ", "ghostify ", line.strip())
        if call.startswith("ghostify "):
            yield shlex.split(call, comments=True)[1:]


def verb_of(words: list[str]) -> tuple[click.Command, list[str]]:
    command: click.Command = cli
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        below = command.get_command(click.Context(command), words[0])
        assert below is not None, f"there is no verb {words[0]}"
        command, words = below, words[1:]
    return command, words


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_commands_have_verbs_and_options_that_exist(page: Path) -> None:
    for words in commands(page.read_text()):
        if words[0] in ("VERB", "…"):
            continue
        command, rest = verb_of(words)
        known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        known |= {"--help", "-h"}
        for word in rest:
            assert not word.startswith("--") or word.split("=")[0] in known, f"ghostify {' '.join(words)}: no {word}"


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_blocks_of_python_compile_and_name_what_there_is(page: Path) -> None:
    for language, block in FENCE.findall(page.read_text()):
        if language == "python":
            for node in ast.walk(ast.parse(block)):
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "ghostify":
                    assert hasattr(ghostify, node.attr), node.attr


def test_the_reference_has_every_public_name() -> None:
    page = (ROOT / "docs" / "reference" / "python.md").read_text()
    shown = set(re.findall(r"^\.\. auto\w+:: (?:ghostify\.)?(\w+)$", page, re.M))
    assert set(ghostify.__all__) == shown & set(ghostify.__all__)


def test_every_page_is_in_the_contents() -> None:
    folder = ROOT / "docs"
    contents = (folder / "index.md").read_text()
    listed = {entry for block in re.findall(r"```\{toctree\}\n(.*?)```", contents, re.S) for entry in block.split()}
    assert {str(page.relative_to(folder).with_suffix("")) for page in folder.rglob("*.md")} - {"index"} <= listed


def values_in(found: Any) -> Iterator[float]:
    """All numbers of a row, however deep."""
    if isinstance(found, dict | list):
        for value in found.values() if isinstance(found, dict) else found:
            yield from values_in(value)
    elif isinstance(found, int | float) or (isinstance(found, str) and re.fullmatch(r"-?\d+(\.\d*)?(e-?\d+)?", found)):
        yield float(found)


def measured(file: str, conditions: dict[str, str]) -> list[float]:
    """The numbers of a file of results in the rows that meet the conditions, and their means over draws."""
    path = RESULTS / file
    if path.suffix == ".json":
        return list(values_in(json.loads(path.read_text())))
    with path.open(newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if conditions.items() <= row.items()]
    assert rows, f"{file} has no row with {conditions}"
    draws: dict[tuple[str | None, str], list[float]] = defaultdict(list)  # a column after so many epochs
    for row in rows:
        for column, text in row.items():
            for value in values_in(text):
                draws[row.get("epochs"), column].append(value)
    return [value for values in draws.values() for value in (*values, fmean(values))]


def is_one_of(figure: str, values: list[float]) -> bool:
    """True if a figure is one of the values, or that in per cent, as it is rounded."""
    shown, half = float(figure.replace(",", "")), 0.5001 * 10.0 ** -len(figure.partition(".")[2])
    return any(abs(shown - scale * value) <= half for value in values for scale in (1, 100))


def marked_lines() -> Iterator[tuple[str, str, str, str]]:
    for page in PAGES:
        for line in page.read_text().splitlines():
            for number, (words, file, conditions) in enumerate(MARKER.findall(line)):
                # The first cell of a row says what was asked for.
                figures = words.split("|", 2)[2] if not number and words.startswith("|") else words
                yield names(page), figures, file.strip(), conditions


def test_figures_are_those_that_were_measured() -> None:
    wrong = []
    for page, words, file, conditions in marked_lines():
        values = measured(file, dict(part.strip().split("=", 1) for part in conditions.split(";") if part.strip()))
        wrong += [f"{page}: {figure}: {words}" for figure in DECIMAL.findall(words) if not is_one_of(figure, values)]
    assert not wrong, "\n".join(wrong)


def test_a_figure_that_was_not_measured_is_found() -> None:
    conditions = {"method": "planned for time", "learning": "hints"}
    values = measured("pareto_resnet56.csv", conditions)
    assert is_one_of("93.03", values)
    assert is_one_of("0.614", values)
    assert not is_one_of("93.04", values)
    assert not is_one_of("92.49", values)  # of another way to learn


@pytest.mark.parametrize("page", MARKED)
def test_rows_of_figures_name_their_file(page: str) -> None:
    lines = (ROOT / "docs" / page).read_text().splitlines()
    below = [*lines[1:], ""]  # of a table's heading, the rule
    rows = [a for a, b in zip(lines, below, strict=True) if a[:1] == "|" and b[:4] != "|---" and DECIMAL.search(a)]
    assert rows, "no row has figures"
    # The first cell says what was asked for; behind the last marker is none.
    assert [row for row in rows if DECIMAL.search(MARKER.sub("", "|".join(row.split("|")[2:])))] == []


# Pages that no file of results stands behind: what is made from the code, and what support.py writes by itself.
WITHOUT = ("architecture.md", "changelog.md", "command-line.md", "python.md", "shell.md", "support.md")
# What was asked for, set, or is a width or a version: not measured.
SET = re.compile(
    r"“.*?”|\".*?\"|`[^`]*`|\]\([^)]*\)|GhostNet \d\.\d×|Width \d\.\d|CC BY 2\.0|(Python|OpenVINO|NNCF) [\d.]+"
)
ASKED = {"1.3", "1.5", "1.6", "1.86", "1.9", "0.9", "0.8", "0.65", "0.6", "0.5", "0.35", "0.2", "0.1"}
RATES = {"0.0003", "0.0001", "0.001", "0.02", "0.19"}


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in WITHOUT], ids=names)
def test_figures_in_sentences_name_their_file(page: Path) -> None:
    lines = [line for line in FENCE.sub("", page.read_text()).splitlines() if not line.startswith("|")]
    found = {line: DECIMAL.findall(SET.sub("", MARKER.sub("", line))) for line in lines}
    assert {line: figures for line, figures in found.items() if not {*figures} <= ASKED | RATES} == {}
