"""Every option says what it does, and options that travel together arrive together."""

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from ghostify.cli import cli
from ghostify.cli.options import bundle


def commands(group: click.Group, *path: str) -> Iterator[tuple[str, click.Command]]:
    """A group's commands by what a user types, those of nested groups, too."""
    for name, command in group.commands.items():
        yield " ".join((*path, name)), command
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)


VERBS = dict(commands(cli))
OPTIONS = [
    pytest.param(option, id=f"{verb} {option.opts[0]}")
    for verb, command in VERBS.items()
    for option in command.params
    if isinstance(option, click.Option)
]


def has_default(option: click.Option) -> bool:
    """True where there is a default to be shown; a plain flag has none."""
    plain_flag = option.is_flag and not option.secondary_opts
    return isinstance(option.default, str | int | float | Path) and not plain_flag


def sentences(text: str) -> int:
    return len(re.findall(r"[.!?](?=\s|$)", text))


def test_the_walk_meets_verbs_of_nested_groups_and_their_options() -> None:
    assert {"run", "count", "detect", "detect train"} <= VERBS.keys()
    assert len(OPTIONS) > 150


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_has_one_or_two_sentences_of_help(option: click.Option) -> None:
    assert option.help
    assert option.help.endswith(".")
    assert sentences(option.help) in (1, 2)
    assert option.help[0].isupper()


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str) -> None:
    assert (VERBS[verb].help or "").strip().endswith(".")


@pytest.mark.parametrize("option", [option for option in OPTIONS if has_default(option.values[0])])
def test_the_help_of_an_option_shows_its_default(option: click.Option) -> None:
    context = click.Context(cli, **cli.context_settings)
    assert "default" in option.get_help_extra(context)


@click.command()
@bundle("inner", dict, click.argument("b"), click.option("--c", default=3))
@click.option("--d", default=4)
@bundle("outer", dict, click.option("--a", default=1), click.option("--unseen", expose_value=False, default=2))
def bundled(inner: dict[str, object], d: int, outer: dict[str, object]) -> tuple[object, ...]:
    return inner, d, outer


def test_a_bundle_hands_over_its_own_options_and_no_others() -> None:
    found = bundled.main(["text", "--c", "5"], standalone_mode=False)
    assert found == ({"b": "text", "c": 5}, 4, {"a": 1})


def test_bundled_options_stand_in_the_help_in_the_order_of_the_decorators() -> None:
    assert [parameter.name for parameter in bundled.params] == ["b", "c", "d", "a", "unseen"]


@pytest.mark.parametrize(
    ("verb", "heading", "option"),
    [
        ("run", "Only with a MODEL that is not trained:", "--epochs"),
        ("convert", "Only with --finetune:", "--optimizer"),
    ],
)
def test_options_that_do_nothing_by_themselves_stand_under_a_heading(verb: str, heading: str, option: str) -> None:
    command = cli.get_command(click.Context(cli), verb)
    assert command is not None
    usual, own = command.get_help(click.Context(command)).split(heading)
    assert option not in usual
    assert f"\n  {option} " in own
    assert "With " not in own
    for parameter in command.params:
        assert isinstance(parameter, click.Argument) or f"\n  {parameter.opts[-1]}" in usual + own or "-h, " in usual
