"""Python's parameters as the options of the verb that runs."""

from typing import Any

import click
from click.core import ParameterSource

# Where an option's value is from when the user set it.
BY_USER = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)
# Parameters whose options fill something of another name in the verb: the one that the user set, else the last.
OTHER_NAMES = {
    "calibration": ("calibration", "data_name"),
    "images": ("image_count",),
    "plan": ("plan_file",),
    "weight": ("teacher_weight",),
}


def as_option(parameter: str, value: Any = None) -> str | None:
    """The option of the running verb that sets a parameter, such as ``--target-macs``; None where it has none.

    Args:
        parameter: Its name in Python.
        value: Value to be set by it.
    """
    context = click.get_current_context(silent=True)
    if context is None:
        return None
    known = {option.name: option for option in context.command.params if isinstance(option, click.Option)}
    names = [name for name in OTHER_NAMES.get(parameter, (parameter,)) if name in known]
    if not names:
        return None
    by_user = [name for name in names if context.get_parameter_source(name) in BY_USER]
    option = known[(by_user or names)[0 if by_user else -1]]
    if value is False and option.secondary_opts:
        return option.secondary_opts[0]
    return option.opts[0] if value is None or isinstance(value, bool) else f"{option.opts[0]} {value}"
