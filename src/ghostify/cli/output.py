"""The output of a verb: tables or JSON on standard output, progress on standard error."""

import json
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from ghostify.progress import first_process

if TYPE_CHECKING:  # what it prints; printing needs no PyTorch
    from ghostify.jobs.checkpoint import Epoch
    from ghostify.jobs.evaluate import Score

# Headings of a layer's channels.
CHANNELS = ("kept/\nghosted/\ndropped", "inputs\nmerged\nto")
WIDTH = 80  # of lines, where a terminal does not say that it has more
NARROWEST = 8  # column of words

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")


class InterruptedVerbError(Exception):
    """An interruption of work that can be gone on with; its text says how."""


@dataclass(frozen=True)
class Printing:
    """How a verb prints what it found: as one JSON object, or as tables, of all layers or in brief."""

    all_layers: bool
    as_json: bool


@contextmanager
def kept(how: str) -> Iterator[None]:
    """Have an interruption say how to go on with what was finished."""
    try:
        yield
    except KeyboardInterrupt:
        raise InterruptedVerbError(how) from None


def score_text(score: "Score") -> str:
    low, high = score.interval
    top1 = interval(100 * score.top1, 100 * low, 100 * high, 2)
    top5 = "" if score.top5 is None else f", top-5 {100 * score.top5:.2f} %"
    return f"top-1 {top1} %{top5} of {score.images} test images (95 % Wilson interval)"


def channels(layer: Any) -> tuple[str, str]:
    """A layer's channels for a table: how many are kept, ghosted and dropped; and combinations of its inputs."""
    made = (layer.kept, layer.ghosted, layer.dropped)
    return "–" if layer.kept is None else "/".join(map(str, made)), "–" if layer.inputs is None else str(layer.inputs)


def interval(value: float, low: float, high: float, digits: int) -> str:
    return f"{value:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def size(shape: tuple[int, ...] | None) -> str:
    return "–" if shape is None else "×".join(map(str, shape))


def show(result: dict[str, Any], as_json: bool, tables: Callable[[], None]) -> None:
    if as_json:
        print(json.dumps(result))
    else:
        tables()


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> None:
    """A table on standard output, its first ``left`` columns aligned left and, where it is too wide, their text folded.

    Numbers are never cut: with too many columns of them, the table is wider.
    """
    rows = list(rows)
    widths = [max(map(cell_width, column)) for column in zip(headings, *rows, strict=True)]
    numbers = sum(1 + width for width in widths[left:])
    width = max(line_width(), left * (1 + NARROWEST) + numbers)
    # Names stay whole as far as there is room, to be copied; other words are folded first.
    room = width - numbers
    for index in range(left):
        widths[index] = min(widths[index], room - (left - 1 - index) * (1 + NARROWEST))
        room -= widths[index] + 1
    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="bold")
    for index, heading in enumerate(headings):
        words = index < left
        table.add_column(
            heading, justify="left" if words else "right", no_wrap=not words, overflow="fold", width=widths[index]
        )
    for row in rows:
        table.add_row(*row)
    Console(highlight=False, markup=False, emoji=False, width=width).print(table)


def cell_width(text: str) -> int:
    return max(map(len, text.splitlines()), default=0)


def say(text: str, indent: str = "") -> None:
    """A sentence on standard output, in lines of the terminal's width; paths and names stay whole."""
    lines = textwrap.wrap(text, line_width(), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    print(*lines, sep="\n")


def line_width() -> int:
    """The terminal's width, and 80 where that is less or there is none."""
    return max(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns) if sys.stdout.isatty() else WIDTH


def print_history(history: "Iterable[Epoch]") -> None:
    """A line for each epoch of a training, and of what could be right in it."""
    history = list(history)
    shares = {
        "train, %": "train_top1",
        "held out, %": "val_top1",
        "held-out AP, %": "val_ap",
        "held-out AP50, %": "val_ap50",
        "held-out mIoU, %": "val_miou",
    }
    known = {
        heading: name for heading, name in shares.items() if any(getattr(epoch, name) is not None for epoch in history)
    }
    rows = [
        (
            str(e.epoch),
            f"{e.train_loss:.3f}",
            *(percent(getattr(e, name)) for name in known.values()),
            f"{e.seconds:.1f}",
            percent(e.data_share),
        )
        for e in history
    ]
    print_table(("epoch", "loss", *known, "seconds", "data, %"), rows)


@contextmanager
def progress_bars() -> Iterator[Callable[[str, str, int, int], None]]:
    """Bars on standard error, one per task; a plain line per tenth where that is no terminal."""
    console = Console(stderr=True)
    if not first_process():
        yield lambda task, detail, done, total: None
        return
    if not console.is_terminal:
        yield plain_progress
        return
    columns = (TextColumn("{task.fields[name]}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[detail]}"), console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def show_bar(task: str, detail: str, done: int, total: int) -> None:
            if task not in tasks:
                tasks[task] = bars.add_task("", name=task, detail=detail)
            bars.update(tasks[task], completed=done, total=total, detail=detail)

        yield show_bar


def plain_progress(task: str, detail: str, done: int, total: int) -> None:
    if total <= 10 or done * 10 // total > (done - 1) * 10 // total:
        print(f"{task}: {detail} ({done}/{total})", file=sys.stderr, flush=True)
