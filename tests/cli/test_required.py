"""What every option and argument refuses: to be left out, to be misspelled, and to be of another type or too large."""

from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click
import pytest
from command_line import refused

from ghostify.cli import cli


def commands(group: click.Group, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)
        else:
            yield (*path, name), command


def parameters() -> Iterator[Any]:
    for verb, command in commands(cli):
        for parameter in command.params:
            name = parameter.opts[0] if isinstance(parameter, click.Option) else parameter.human_readable_name
            yield pytest.param(verb, parameter, id=f"{' '.join(verb)} {name}")


def is_ranged(parameter: click.Parameter) -> bool:
    return isinstance(parameter.type, click.IntRange | click.FloatRange)


ALL = list(parameters())
REQUIRED = [case for case in ALL if case.values[1].required]
OPTIONS = [case for case in ALL if isinstance(case.values[1], click.Option)]
NUMBERS = [
    case for case in OPTIONS if isinstance(case.values[1].type, click.types.IntParamType | click.types.FloatParamType)
]
NO_NUMBERS = [
    pytest.param(*case.values, value, id=f"{case.id} {value}")
    for case in NUMBERS
    for value in ("x", "nan")
    if value == "x" or is_ranged(case.values[1])  # a recipe's own bounds refuse the others, see below
]
RANGES = [
    pytest.param(*case.values, value, id=f"{case.id} {value}")
    for case in OPTIONS
    if is_ranged(case.values[1])
    for value in (case.values[1].type.min, case.values[1].type.max)
    if value is not None
]


def test_the_walk_meets_what_is_required() -> None:
    required = {case.id for case in REQUIRED}
    assert {"train --data", "train --out", "evaluate --data", "evaluate MODEL", "plan --out"} <= required
    assert not {"plan --data", "plan --calibration"} & required  # one of them, see below
    assert {"detect train --data", "detect predict IMAGES", "compare B", "convert --out", "export --out"} <= required
    assert len(NUMBERS) > 80


@pytest.mark.parametrize(("verb", "left_out"), REQUIRED)
def test_what_is_required_and_left_out_is_named(
    verb: tuple[str, ...],
    left_out: click.Parameter,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    command: click.Command = cli
    for name in verb:
        assert isinstance(command, click.Group)
        command = command.commands[name]
    arguments: list[str] = []
    for parameter in command.params:
        if parameter.required and parameter is not left_out:
            value = str(tmp_path / "out") if parameter.name == "out" else "resnet20"
            arguments += [parameter.opts[0], value] if isinstance(parameter, click.Option) else [value]
    line = refused(capsys, *verb, *arguments)
    # Of two arguments it is the last that is found to be missing.
    others = [p.make_metavar(click.Context(command)) for p in command.params if isinstance(p, click.Argument)]
    names = left_out.opts if isinstance(left_out, click.Option) else others
    assert "Missing" in line
    assert any(name in line for name in names)


@pytest.mark.parametrize(
    ("verb", "options"),
    [
        ("plan resnet20 --target-macs 0.6", ["--data digits", "--calibration PHOTOS"]),
        ("plan resnet20 --data digits", ["--target-macs 0.6", "--target-speedup 2", "--max-accuracy-drop 1"]),
        ("plan resnet20 --calibration PHOTOS", ["--target-macs 0.6", "--target-speedup 2"]),
        ("convert resnet20 --plan PLAN", ["--data digits", "--calibration PHOTOS"]),
    ],
)
def test_of_options_one_of_which_is_required_neither_all_nor_none_are_taken(
    verb: str, options: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "plan.json").write_text("{}")
    places = {"PHOTOS": str(tmp_path), "PLAN": str(tmp_path / "plan.json")}
    for given in ([], options):
        arguments = [places.get(word, word) for word in " ".join([verb, *given]).split()]
        line = refused(capsys, *arguments, "--out", str(tmp_path / "out"))
        assert all(option.split()[0] in line for option in options)
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("verb", "option"), OPTIONS)
def test_a_misspelled_option_is_refused_with_the_right_one(
    verb: tuple[str, ...], option: click.Option, capsys: pytest.CaptureFixture[str]
) -> None:
    flag = max(option.opts, key=len)
    misspelled = f"{flag[:-1]}{flag[-1]}q"
    line = refused(capsys, *verb, misspelled)
    assert f"No such option '{misspelled}'" in line
    assert flag in line.partition("Did you mean")[2]


@pytest.mark.parametrize("verb", ["cuont", "tarin", "evalute", "convrt"])
def test_a_misspelled_verb_is_refused_with_the_right_one(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, verb, "resnet20")
    assert get_close_matches(verb, cli.commands)[0] in line.partition("Did you mean")[2]


@pytest.mark.parametrize(("verb", "option", "value"), NO_NUMBERS)
def test_what_is_no_number_is_refused(
    verb: tuple[str, ...], option: click.Option, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, *verb, option.opts[0], value)
    assert f"Invalid value for '{option.opts[0]}'" in line


@pytest.mark.parametrize(("verb", "option", "bound"), RANGES)
def test_what_is_beyond_its_range_is_refused(
    verb: tuple[str, ...], option: click.Option, bound: float, capsys: pytest.CaptureFixture[str]
) -> None:
    assert isinstance(option.type, click.IntRange | click.FloatRange)
    beyond = bound - 1 if bound == option.type.min else bound + 1
    line = refused(capsys, *verb, option.opts[0], f"{beyond:g}" if isinstance(beyond, float) else str(beyond))
    assert f"Invalid value for '{option.opts[0]}'" in line


@pytest.mark.parametrize("setting", ["lr", "lr-batch-size", "weight-decay", "warmup-epochs", "label-smoothing", "ema"])
@pytest.mark.parametrize("value", ["-1", "nan"])
def test_a_recipes_numbers_are_refused_by_their_options_before_anything_is_opened(
    setting: str, value: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    if setting == "lr-batch-size" and value == "nan":
        value = "-2"
    train = ["train", "no-such-network", "--data", "nothing", "--out", str(tmp_path / "out")]
    assert f"--{setting} is {float(value):g}" in refused(capsys, *train, f"--{setting}", value).replace(".0:", ":")


@pytest.mark.parametrize("option", ["--mean", "--std", "--input-shape"])
def test_an_empty_value_is_not_taken_for_none(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"Invalid value for '{option}'" in refused(capsys, "look", "resnet20", option, "")
