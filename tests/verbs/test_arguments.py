"""What the command line can, Python can: a verb's options are its function's parameters, by the same names.

Where they are not, a table says why.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import pytest

import ghostify
from ghostify import Recipe, Teacher, detect, segment
from ghostify.cli import cli

BUILT = "create_model or load has built the network"
SAID = "Python gets objects back, and prints nothing by itself"
# Options that no parameter of any function answers to, and why.
WITHOUT: dict[str, str] = {
    "weights": "a state dict is PyTorch's: model.load_state_dict",
    "factory": "load takes it",
    "new_head": "the state dict without its last layer is loaded by PyTorch: strict=False",
    "num_classes": BUILT,
    "ratio": BUILT,
    "cheap_kernel_size": BUILT,
    "fpn_channels": BUILT,
    "min_size": BUILT,
    "max_size": BUILT,
    "smallest_anchor": BUILT,
    "norm": BUILT,
    "threads": "torch.set_num_threads is Python's",
    "json": SAID,
    "per_class": "Score.counts and CocoScore.categories have them",
    "layers": SAID,
}
DETECTOR = {"mean": "a detector normalises by itself: create_model has image_mean", "std": "likewise, image_std"}
TEACHER = {"teacher_weight": "Teacher has it as weight", "hints": "Teacher has it"}
CALIBRATION = dict.fromkeys(
    ("data", "image_size", "mean", "std", "device", "workers", "images"), "Python gives batches that are on a device"
)
# Functions, their verbs, options under another name, and differences of this verb alone.
VERBS: Mapping[str, tuple[Callable[..., Any], dict[str, str], dict[str, str]]] = {
    "count": (ghostify.count, {}, {}),
    "train": (ghostify.train, {}, TEACHER | {"temperature": "Teacher has it"}),
    "evaluate": (ghostify.evaluate, {}, {}),
    "look": (ghostify.look, {"layer": "layers"}, {}),
    "detect train": (detect.train, {}, DETECTOR | TEACHER),
    "detect evaluate": (detect.evaluate, {}, DETECTOR),
    "detect predict": (detect.predict, {}, DETECTOR),
    "segment train": (segment.train, {}, TEACHER | {"temperature": "Teacher has it"}),
    "segment evaluate": (segment.evaluate, {}, {"engine": "FileNetwork has it"}),
    "compare": (
        ghostify.compare,
        {"model": "a"},
        {
            "input_shape": "the example has a shape",
            "batch_size": "the example is a batch",
            "device": "the networks and the example are on one",
            "deploy": "deploy makes a network that is compared like any other",
        },
    ),
    "explain": (
        ghostify.explain,
        {"model": "original"},
        {
            "input_shape": "the example has a shape",
            "batch_size": "the example is a batch",
            "cheap": "convert has made the ghost",
        },
    ),
    "run": (
        ghostify.run,
        {},
        dict.fromkeys({field.name for field in dataclasses.fields(Recipe)} - {"seed"}, "recipe has it")
        | {"calibration": "batches without labels are data"},
    ),
    "plan": (
        ghostify.plan,
        {},
        CALIBRATION
        | {
            "max_accuracy_drop": "it needs labels, which calibration has not",
            "effort": "of the ghosts that are tried for it",
            "batch_size": "the example is a batch",
            "out": "convert takes the plan itself; measurements is a file of its own",
        },
    ),
    "convert": (
        ghostify.convert,
        {"part": "parts"},
        CALIBRATION
        | dict.fromkeys(("finetune", "batch_size", "optimizer", "lr", "freeze_norm", "hints"), "train has a teacher")
        | {"out": "save writes the network"},
    ),
    "export": (
        ghostify.export,
        {"out": "path"},
        CALIBRATION
        | {
            "calibration": "int8 takes the images",
            "input_shape": "the example has a shape",
            "choose_forms": "forms are what choose_forms gives",
            "max_accuracy_drop": "Int8 has it",
        },
    ),
}
# Parameters that no option answers to, and why.
ONLY_PYTHON = {
    "progress": "the command line always shows it",
    "say": "the command line always says it",
    "test": "the command line names a data set, which has test images",
    "recipe": "the command line has an option for each of its fields",
    "example": "the command line makes one by --input-shape and --batch-size",
    "classes": "the command line takes those of the network's file, which other detectors do not have",
    "measurements": "the command line's lies under --out",
    "check": "the command line takes test images of --data",
    "tolerance": "the command line's is the usual one",
    "preprocessing": "the command line writes that of --data",
    "forms": "the command line measures them: --choose-forms",
    "block_ms": "a measurement that is shorter than is usual, for tests",
}
# Defaults that differ.
DEFAULTS = {
    ("run", "out"): "the same folder, as a path",
    ("run", "model"): "the command line's is the demonstration's",
    ("look", "out"): "Python gets the maps without a file",
    ("convert", "parts"): "the command line's is the same, and said in its help",
    ("plan", "threads"): "the command line's are all that PyTorch has",
    ("compare", "engine"): "the command line's is that of a file, where one is given",
    ("compare", "precision"): "Python's is that of the example",
}


def command(verb: str) -> click.Command:
    found: Any = cli
    for name in verb.split():
        found = found.commands[name]
    return found


def parameters(verb: str) -> dict[str, click.Parameter]:
    """A verb's parameters as Python would spell them."""
    _, renamed, _ = VERBS[verb]
    spelled = {p.opts[0].lstrip("-").replace("-", "_").lower(): p for p in command(verb).params}
    return {renamed.get(name, name): parameter for name, parameter in spelled.items()}


def settings(function: Callable[..., Any]) -> dict[str, Any]:
    """A function's parameters and their defaults, and those of the recipe that it takes."""
    own = {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}
    recipe = own.get("recipe")
    return own if recipe is None else {**dataclasses.asdict(recipe), **own}


def unset(default: Any) -> Any:
    """None for all that says nothing."""
    silent = (
        default is None
        or default is inspect.Parameter.empty
        or isinstance(default, type(click.Option(["--x"]).default))
    )
    return None if silent or default in (False, ()) else default


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_has_a_parameter_of_its_name_or_a_reason(verb: str) -> None:
    function, _, apart = VERBS[verb]
    missing = parameters(verb).keys() - settings(function).keys() - apart.keys() - WITHOUT.keys()
    assert not missing, f"{function.__name__} has no {missing}"
    assert not apart.keys() & settings(function).keys(), "a reason without need"


@pytest.mark.parametrize("verb", VERBS)
def test_every_parameter_has_an_option_of_its_name_or_a_reason(verb: str) -> None:
    function, _, _ = VERBS[verb]
    recipe = {field.name for field in dataclasses.fields(Recipe)} if "recipe" in settings(function) else set()
    more = settings(function).keys() - parameters(verb).keys() - ONLY_PYTHON.keys() - recipe - {"recipe"}
    assert not more, f"`ghostify {verb}` has no {more}"


@pytest.mark.parametrize("verb", VERBS)
def test_defaults_are_the_same(verb: str) -> None:
    own, options = settings(VERBS[verb][0]), parameters(verb)
    for name in own.keys() & options.keys() - {"recipe"}:
        if isinstance(options[name], click.Option) and (verb, name) not in DEFAULTS:
            assert unset(own[name]) == unset(options[name].default), name


def test_a_teachers_options_are_its_parameters() -> None:
    options, teacher = parameters("train"), inspect.signature(Teacher).parameters
    assert teacher.keys() == {"network", "weight", "temperature", "hints"}
    assert options["teacher_weight"].default == teacher["weight"].default
    assert options["temperature"].default == teacher["temperature"].default
    assert unset(options["hints"].default) == unset(teacher["hints"].default)


def test_every_verb_has_a_function() -> None:
    others = {
        "models": "list_models, list_detectors",
        "recipes": "train takes their names",
    }
    assert {verb.split()[0] for verb in VERBS} | others.keys() == set(cli.commands)


def test_the_documents_name_every_function() -> None:
    page = (Path(__file__).parents[2] / "docs" / "python.md").read_text()
    for name in (
        "train",
        "evaluate",
        "look",
        "hints",
        "detect.train",
        "detect.evaluate",
        "detect.predict",
        "segment.train",
        "segment.evaluate",
    ):
        assert f"ghostify.{name}" in page
