"""Self-contained pages from templates that escape their values."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render(template: str, **values: Any) -> str:
    """A page that loads nothing from anywhere.

    Args:
        template: File in ``jobs/templates``.
        values: Values of the template's variables; text is shown, never run.
    """
    environment = Environment(
        loader=PackageLoader("ghostify.jobs"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template(template).render(**values)
