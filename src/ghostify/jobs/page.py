"""Self-contained pages from templates that escape what they are given."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render(template: str, **values: Any) -> str:
    """A page that loads nothing from anywhere.

    Args:
        template: File in ``jobs/templates``.
        values: What it speaks of; text is shown, never run.
    """
    environment = Environment(
        loader=PackageLoader("ghostify.jobs"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template(template).render(**values)
