"""Messages name a parameter as whoever asked spells it: Python's name, or the option of the verb that runs."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import ghostify
from ghostify import InputError
from ghostify.changes import LayerPlan, Prune
from ghostify.cli import cli, main
from ghostify.cli.spelling import OTHER_NAMES
from ghostify.errors import spelled
from ghostify.models import registry
from ghostify.planning.plan_file import Plan, write_plan

SOURCE = Path(ghostify.__file__).parent


def option_names(command: click.Command) -> set[str]:
    if isinstance(command, click.Group):
        return set().union(*map(option_names, command.commands.values()))
    return {str(option.name) for option in command.params if isinstance(option, click.Option)}


PARAMETERS = option_names(cli) | OTHER_NAMES.keys()
WITH_UNDERSCORE = re.compile(rf"\b({'|'.join(sorted(name for name in PARAMETERS if '_' in name))})\b")
AT_THE_BEGINNING = re.compile(rf"({'|'.join(sorted(PARAMETERS))})(=| is |: )")


def messages(source: str) -> Iterator[list[str]]:
    """The fixed parts of each message of an ``InputError``; a beginning that is not fixed is empty."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and "InputError" in ast.unparse(node.func) and node.args:
            parts = node.args[0].values if isinstance(node.args[0], ast.JoinedStr) else [node.args[0]]
            yield [part.value if isinstance(part, ast.Constant) else "" for part in parts]


def pythons_alone(source: str) -> list[str]:
    """Messages that name a parameter that has an option, in Python's spelling only."""
    return [
        "…".join(parts)
        for parts in messages(source)
        if AT_THE_BEGINNING.match(parts[0]) or any(WITH_UNDERSCORE.search(part) for part in parts)
    ]


LIBRARY = [file for file in sorted(SOURCE.rglob("*.py")) if "cli" not in file.relative_to(SOURCE).parts]


@pytest.mark.parametrize("file", LIBRARY, ids=lambda file: str(file.relative_to(SOURCE)))
def test_a_message_spells_parameters_as_whoever_asked_does(file: Path) -> None:
    assert pythons_alone(file.read_text()) == []


def test_messages_in_pythons_spelling_are_found() -> None:
    source = """
raise InputError("ratio is 0: expected more")
raise InputError(f"skip: {name} matches nothing")
raise InputError(f"{name} needs target_macs")
raise InputError(f"{spelled('ratio')} is 0: expected a ratio of at least 1")
raise ValueError("ratio is 0")
"""
    assert pythons_alone(source) == [
        "ratio is 0: expected more",
        "skip: …… matches nothing",
        "… needs target_macs",
    ]


PLACES = {
    "FILE": "network.safetensors",
    "NINE": "nine.pt",
    "WEIGHTS": "weights.safetensors",
    "SMALL": "small.npz",
    "PLAN": "plan.json",
    "OUT": "out",
}


def test_python_hears_its_own_names() -> None:
    network = nn.Sequential(nn.Conv2d(3, 16, 3))
    with pytest.raises(InputError, match=r"^ratio is 0: expected"):
        ghostify.convert(network, ratio=0)
    with pytest.raises(InputError, match=r"^expected exactly one of target_macs and target_speedup$"):
        ghostify.plan(network, example=torch.zeros(1, 3, 8, 8), calibration=[])
    with pytest.raises(InputError, match=r"^skip: 'x' matches no module"):
        ghostify.convert(network, skip=("x",))
    assert spelled("new_head", True) == "new_head=True"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["count", "resnet20", "--ratio", "3"], "resnet20 takes no option '--ratio': it takes --num-classes"),
        (["count", "FILE", "--num-classes", "4"], "leave out --num-classes"),
        (["count", "FILE"], "not run on a file's word: add --factory tiny:Tiny$"),
        (["count", "WEIGHTS"], "name the network and give the file as --weights"),
        (["count", "resnet20", "--weights", "WEIGHTS"], "is of another network"),
        (["convert", "resnet20", "--skip", "x", "--out", "OUT"], "--skip: 'x' matches no module"),
        (["run", "--data", "digits", "--out", "OUT"], "one of --target-speedup, --max-accuracy-drop and --sweep$"),
        (["run", "--target-speedup", "2", "--tune", "x", "--out", "OUT"], "--tune is 'x': expected a whole number"),
        (["convert", "resnet20", "--data", "SMALL", "--out", "OUT"], "--data: 12 images: expected at least 32"),
        (
            ["convert", "resnet20", "--data", "SMALL", "--plan", "PLAN", "--ratio", "2", "--out", "OUT"],
            "--plan says itself what becomes of which layer: leave out --ratio",
        ),
        (["train", "resnet20", "--data", "digits", "--teacher", "FILE", "--out", "OUT"], "add --factory tiny:Tiny$"),
        (
            ["evaluate", "tiny:Tiny", "--weights", "NINE", "--data", "digits"],
            r"network for 10 \(its last layer, head\)$",
        ),
        (
            ["train", "tiny:Tiny", "--weights", "NINE", "--data", "digits", "--out", "OUT"],
            "head\\): --new-head leaves it out$",
        ),
        (["count", "tiny:Tiny?width=wide"], "cannot be built with width='wide': TypeError"),
        (
            ["count", "tiny:Tiny?width=wide", "--num-classes", "3"],
            "cannot be built with width='wide', --num-classes 3: ",
        ),
        (["count", "ghost_resnet20?ratio=x"], "cannot be built with ratio='x': --ratio is 'x': expected"),
        (["count", "resnet20?ratio=3"], "resnet20 takes no option 'ratio': it takes num_classes"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_the_command_line_hears_of_its_options(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    colours: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A new head is advised only by a verb that can make one."""
    places = {name: tmp_path / file for name, file in PLACES.items()}
    ghostify.save(ghostify.create_model("tiny:Tiny"), places["FILE"])
    torch.save(ghostify.create_model("tiny:Tiny", num_classes=9).state_dict(), places["NINE"])
    save_file({"a": torch.zeros(2)}, places["WEIGHTS"])
    with np.load(colours) as arrays:  # too few images to calibrate on
        np.savez(places["SMALL"], **{name: array[:12] for name, array in arrays.items()})
    write_plan(Plan({"conv1": LayerPlan(Prune(8, 8))}, ("macs", 0.9), 0.9, 0.0, 0.1), places["PLAN"])
    monkeypatch.setattr(registry, "_run_by_user", set())  # as in a new process
    said = [str(places.get(word, word)) for word in arguments]
    said = [f"npz:{word}" if word.endswith(".npz") else word for word in said]
    assert main(said) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert re.search(message, line), line
