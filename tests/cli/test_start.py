"""What needs no network answers without PyTorch, whose import takes seconds."""

import re
import subprocess
import sys

import click
import pytest
from click.shell_completion import ShellComplete

import ghostify
from ghostify.cli import VERBS, cli

# Large packages that nothing at the start may import; the last names whatever brings a room of this library with them.
LARGE = {"torch", "torchvision", "numpy", "scipy", "sklearn", "PIL", "accelerate", "matplotlib", "ghostify.models"}


def imported(code: str) -> tuple[int, str, set[str]]:
    """Exit status, output, and those of ``LARGE`` that a new process has imported when the code has run."""
    code = f"import sys\nstatus = 0\n{code}\nprint(status, *({LARGE} & sys.modules.keys()))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *said, last = ran.stdout.splitlines()
    status, *found = last.split()
    return int(status), "\n".join([*said, ran.stderr]), set(found)


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ([], 2, "Commands:"),
        (["--help"], 0, "Make a trained network as fast as you want"),
        (["--version"], 0, ghostify.__version__),
        (["plann", "resnet20"], 2, "Did you mean one of: 'explain', 'plan'?"),
        (["--halp"], 2, "No such option '--halp'"),
        (["models"], 0, "retinanet_ghostnet_110_fpn"),
        (["models", "--json"], 0, '"resnet56"'),
        (["models", "--help"], 0, "List the networks"),
    ],
)
def test_the_command_line_answers_without_pytorch(arguments: list[str], status: int, said: str) -> None:
    found = imported(f"from ghostify.cli import main\nstatus = main({arguments})")
    assert found[0] == status
    assert said in found[1]
    assert found[2] == set()


def test_verbs_are_completed_without_pytorch() -> None:
    """As docs/shell.md sets it up: the shell calls with what was typed."""
    code = (
        "import os\n"
        "from ghostify.cli import main\n"
        "os.environ |= {'_GHOSTIFY_COMPLETE': 'bash_complete', 'COMP_WORDS': 'ghostify ex', 'COMP_CWORD': '1'}\n"
        "try:\n    main([])\nexcept SystemExit as end:\n    status = end.code"
    )
    status, said, large = imported(code)
    assert status == 0
    assert said.split() == ["plain,explain", "plain,export"]
    assert large == set()


def test_python_names_models_without_pytorch() -> None:
    _, said, large = imported("import ghostify\nprint(ghostify.list_models(), ghostify.list_detectors())")
    assert "resnet20" in said
    assert large == set()


def test_whoever_builds_a_network_has_pytorch() -> None:
    """So that the tests above can fail."""
    assert {"torch", "ghostify.models"} <= imported("import ghostify\nghostify.create_model")[2]


@pytest.mark.parametrize("verb", VERBS)
def test_a_verbs_line_is_the_first_sentence_of_its_help(verb: str) -> None:
    command = cli.commands[verb]
    assert command.name == verb
    assert re.split(r"\.(?:\s|$)", " ".join(str(command.help).split()))[0] == VERBS[verb]


@pytest.mark.parametrize(
    ("arguments", "incomplete", "expected"),
    [
        ([], "", set(VERBS)),
        ([], "--v", {"--version"}),
        (["detect"], "p", {"predict"}),
        (["plan"], "--target", {"--target-macs", "--target-speedup"}),
        (["plan", "resnet20", "--engine"], "open", {"openvino"}),
    ],
)
def test_a_shell_completes_verbs_options_and_choices(arguments: list[str], incomplete: str, expected: set[str]) -> None:
    found = ShellComplete(cli, {}, "ghostify", "_GHOSTIFY_COMPLETE").get_completions(arguments, incomplete)
    assert {item.value for item in found} == expected
    if not arguments and not incomplete:
        assert {item.value: item.help for item in found} == VERBS


def test_a_verb_that_is_added_is_found() -> None:
    group = type(cli)(commands=type(cli.commands)(cli.commands.data))  # type: ignore[attr-defined]  # our own mapping
    group.add_command(click.Command("mine"))
    assert group.commands["mine"].name == "mine"
