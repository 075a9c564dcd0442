"""The options that a user writes behind a network's name, ``NAME?option=value&option=value``."""

import ast
from typing import Any

from ghostify.errors import InputError

WORDS: dict[str, Any] = {"true": True, "false": False, "none": None, "null": None}


def split_reference(reference: str) -> tuple[str, dict[str, Any]]:
    """A network's name, and its builder's options.

    Values are numbers, true, false, none, Python's own writing of strings, tuples, lists and dicts, with commas tuples
    of these, or else strings.

    Raises:
        InputError: If an option has no name or value, or is there twice.
    Example:
        >>> split_reference("nets:small?width=0.5&depths=2,3&act=relu&bias=true")
        ('nets:small', {'width': 0.5, 'depths': (2, 3), 'act': 'relu', 'bias': True})
    """
    name, mark, query = reference.partition("?")
    options: dict[str, Any] = {}
    for part in query.split("&") if mark else []:
        option, equals, text = part.partition("=")
        if not option.isidentifier() or not equals:
            raise InputError(f"{reference}: {part!r} is no option: expected {name}?option=value&option=value")
        if option in options:
            raise InputError(f"{reference}: {option} is there twice: expected it once")
        options[option] = value_of(text)
    return name, options


def value_of(text: str) -> Any:
    """The value that a text stands for.

    Example:
        >>> [value_of(text) for text in ("1e-3", "None", "a,b", "'1'", "3,", "relu")]
        [0.001, None, ('a', 'b'), '1', (3,), 'relu']
    """
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # no literal: words, perhaps several
        if "," not in text or text[0] in "[({'\"":
            return text
        return tuple(value_of(part) for part in text.removesuffix(",").split(","))
