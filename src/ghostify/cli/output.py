"""The output of a verb: tables or JSON on standard output, progress on standard error."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from ghostify.jobs.checkpoint import Epoch
from ghostify.jobs.evaluate import Score

# Headings of a layer's channels.
CHANNELS = ("kept", "ghosted", "dropped", "inputs\ncombined to")


def score_row(score: Score) -> dict[str, Any]:
    low, high = score.interval
    return {"top1": score.top1, "top1_low": low, "top1_high": high, "top5": score.top5, "test_images": score.images}


def score_text(score: Score) -> str:
    low, high = score.interval
    top1 = interval(100 * score.top1, 100 * low, 100 * high, 2)
    return f"top-1 {top1} %, top-5 {100 * score.top5:.2f} % of {score.images} test images (95 % Wilson interval)"


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
    """A table on standard output, its first ``left`` columns aligned left; never cut, however wide."""
    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="bold")
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="left" if index < left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False, markup=False, emoji=False)
    unbounded = console.options.update(max_width=10_000)
    console.width = max(console.width, console.measure(table, options=unbounded).maximum)
    console.print(table)


def print_history(history: Iterable[Epoch]) -> None:
    """A line for each epoch of a training, and of what could be right in it."""
    history = list(history)
    shares = {
        "train, %": "train_top1",
        "held out, %": "val_top1",
        "held-out AP, %": "val_ap",
        "held-out AP50, %": "val_ap50",
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


def first_process() -> bool:
    """True in the only process, and in the one of torchrun's that writes."""
    return int(os.environ.get("RANK", "0")) == 0
