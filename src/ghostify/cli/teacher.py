"""The teacher that a training learns from, as the user names it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from ghostify.cli.beforehand import open_before
from ghostify.cli.opening import NamedNetwork
from ghostify.cli.options import Decorator, ExistingFile, Number, hints_option, together
from ghostify.errors import InputError
from ghostify.jobs.train import Teacher


@dataclass(frozen=True)
class NamedTeacher:
    """A teacher as the user names it, see ``Teacher``.

    Args:
        teacher: A network's file; None: labels alone.
    """

    teacher: Path | None
    teacher_weight: float
    hints: bool
    temperature: float = Teacher.temperature

    def __post_init__(self) -> None:
        if self.hints and self.teacher is None:
            raise InputError("--hints are a teacher's: name it with --teacher")

    def named(self, factory: str | None) -> NamedNetwork | None:
        return None if self.teacher is None else NamedNetwork(str(self.teacher), factory=factory)

    def open(self, named: NamedNetwork | None, *, detector: bool = False) -> Teacher | None:
        network = None if named is None else open_before(named, detector=detector)
        return None if network is None else Teacher(network, self.teacher_weight, self.temperature, self.hints)

    def settings(self) -> dict[str, Any] | None:
        if self.teacher is None:
            return None
        weight, temperature = self.teacher_weight, self.temperature
        return {"network": str(self.teacher), "weight": weight, "temperature": temperature, "hints": self.hints}


def teacher_options(learnt: str) -> Decorator:
    """Options that ``NamedTeacher`` is made of, but for the temperature.

    Args:
        learnt: Labels or boxes, which are learnt beside it.
    """
    return together(
        click.option(
            "--teacher",
            type=ExistingFile(),
            help=f"Network file to learn from beside the {learnt}, such as that of a ghost's original.",
        ),
        click.option(
            "--teacher-weight",
            type=Number(0, 1, min_open=True),
            default=Teacher.weight,
            help="Share of the loss that is disagreement with the teacher, above 0 to 1.",
        ),
        hints_option,
    )
