"""A verb as a user calls it: what it prints, and the line that refuses."""

import json
from typing import Any

import pytest

from ghostify.cli import main


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """The JSON object on standard output."""
    assert main(arguments) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line on standard error."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    [line] = captured.err.splitlines()
    return line
