"""The table that a benchmark writes, row by row, so that an interrupted one goes on."""

import csv
from pathlib import Path
from typing import Any

from ghostify.atomic import replacing


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows that are there already; none where the file is not."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """All rows as CSV, complete or not at all."""
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
