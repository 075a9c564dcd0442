"""Directive `verbs`: the command line's own help, a section for each verb.

sphinx-click writes reStructuredText, which our help is not: it has single backquotes, as Markdown has them.
"""

import re
from collections.abc import Iterator
from importlib import import_module

import click
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

# An option in a sentence, which stands there without backquotes.
OPTION = re.compile(r"(?<![`\w-])--[a-z][a-z0-9-]*")


class Verbs(SphinxDirective):
    """Sections of all commands below the one that the argument names, as ``package.module:command``."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        module, _, name = self.arguments[0].partition(":")
        command = getattr(import_module(module), name)
        return self.parse_text_to_nodes("\n".join(section(command, "ghostify")), allow_section_headings=True)


def section(command: click.Command, name: str, parent: click.Context | None = None) -> Iterator[str]:
    context = click.Context(command, parent, info_name=name, **command.context_settings)
    yield f"\n## {context.command_path}"
    yield f"\n```none\n{context.command_path} {' '.join(command.collect_usage_pieces(context))}\n```\n"
    yield from (sentence(part) + "\n" for part in (command.help or "").split("\n\n"))
    for option in command.get_params(context):
        record = option.get_help_record(context)
        if record and isinstance(option, click.Option):
            yield f"`{record[0].replace(' RANGE', '')}`\n: {entry(option, context)}\n"
    if isinstance(command, click.Group):
        for verb in command.list_commands(context):
            below = command.get_command(context, verb)
            if below is not None:
                yield from section(below, verb, context)


def entry(option: click.Option, context: click.Context) -> str:
    """An option's sentence, its default and its bounds."""
    extra = option.get_help_extra(context)
    words = [sentence(option.help or "")]
    words += [f"Default: {sentence(extra['default'].strip('()'))}."] if extra.get("default") else []
    words += [f"Range: `{extra['range']}`."] if extra.get("range") else []
    words += ["Required."] if extra.get("required") else []
    return " ".join(words)


def sentence(text: str) -> str:
    """Help as Markdown: options as code, and nothing else that would be markup."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(part if part.startswith("`") else OPTION.sub(r"`\g<0>`", escaped(part)) for part in parts)


def escaped(text: str) -> str:
    return re.sub(r"([\\*_<\[\]])", r"\\\1", text)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("verbs", Verbs)
    return {"parallel_read_safe": True}
