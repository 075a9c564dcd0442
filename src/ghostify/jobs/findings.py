"""The result of a run in sentences."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ghostify.errors import spelled
from ghostify.jobs.images_of_run import Data
from ghostify.jobs.row import Row
from ghostify.jobs.run_settings import RunSettings
from ghostify.jobs.tune import words_of
from ghostify.measure.latency import relative_time
from ghostify.planning.plan_file import Plan

MUCH = 1  # points that int8 may cost without advice


@dataclass(frozen=True)
class Made:
    """A network that was made for a speed.

    Args:
        title: Its name in the table.
        key: Its name among the steps.
        model: The network.
        plan: Its plan.
        folder: Where its files are.
        tuning: How it was tuned; None where it was not.
        note: Why there is no file to load it from; "" where there is one.
    """

    title: str
    key: str
    model: nn.Module
    plan: Plan
    folder: Path
    tuning: dict[str, Any] | None
    note: str


def findings(rows: Sequence[Row], made: Sequence[Made], data: Data, engine: str, settings: RunSettings) -> list[str]:
    """The result in sentences: accuracy before and after, speed, what was lost where."""
    precision = "int8" if settings.int8 else "fp32"
    original = rows[0]
    sentences = []
    for one in made:
        mine = {row.precision: row for row in rows if row.name == one.title}
        row = mine[precision]
        sentences.append(f"{one.title}: {accuracy(original, row, data)}; {speed(row, engine, settings)}.")
        if one.tuning:
            sentences.append(words_of(one.tuning, data.unit))
        if "int8" in mine:
            sentences.append(in_int8(mine["int8"], mine["fp32"]))
        sentences += [one.note] if one.note else []
    ours = [row for row in rows if row.kind == "ours" and row.precision == precision]
    return sentences + better(max(ours, key=lambda row: row.speedup), rows)


def better(mine: Row, rows: Sequence[Row]) -> list[str]:
    """Sentences for what is as fast as the fastest of ours, and as good."""
    found = []
    for row in rows:
        if row.kind != "ours" and row.score >= mine.score and row.speedup >= mine.speedup:
            figures = f"{row.speedup:.2f} times as fast with {100 * row.score:.2f} %"
            also = row.precision == "int8" and mine.precision == "fp32"
            advice = f"with {spelled('int8')} a plan is made on top of it" if also else "take that"
            in_ = "float32" if row.precision == "fp32" else row.precision
            found.append(f"The {row.name} in {in_} is better than this: {figures}; {advice}.")
    return found


def in_int8(row: Row, in_fp32: Row) -> str:
    """The effect of int8 on a network, and the remedy where it costs much."""
    points = 100 * (row.score - in_fp32.score)
    if -points <= MUCH:
        return f"int8 changes {points:+.2f} points of these."
    return (
        f"int8 costs {-points:.2f} points of these: written by export with {spelled('max_accuracy_drop', MUCH)}, "
        "layers stay in float32 until no more is lost."
    )


def accuracy(before: Row, after: Row, data: Data) -> str:
    """Right answers before and after, with intervals."""
    ends = f"{100 * after.score:.2f} % ({100 * after.score_low:.2f}–{100 * after.score_high:.2f})"
    if not data.labelled:
        return f"{ends} {data.unit}"
    first = f"{100 * before.score:.2f} % ({100 * before.score_low:.2f}–{100 * before.score_high:.2f})"
    same = f"{100 * after.agreement:.1f} % of the answers to {data.sizes[2]:,} images the same"
    return f"{data.unit} {first} before, {ends} after, {same}"


def speed(row: Row, engine: str, settings: RunSettings) -> str:
    of = "1 thread" if settings.threads == 1 else f"{settings.threads} threads"
    ends = (1 / row.speedup_high, 1 / row.speedup_low)
    return f"{relative_time(1 / row.speedup, 'the original in float32', ends)} in {engine} with {of}"
