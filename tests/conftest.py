from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from steady import SteadyTiming

from ghostify import compare
from ghostify.measure import environment
from ghostify.planning import planner

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


# Its names come from benchmarks/, which only the tests that run these put on the path.
collect_ignore = ["sleepers.py"]


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def short_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """How quiet the machine is, of a hundredth of a second: every verb says it, and no test asks."""
    monkeypatch.setattr(environment, "core_share", partial(environment.core_share, seconds=0.01))


@pytest.fixture
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Comparisons of blocks of a millisecond: for tests that take no figure from them."""
    monkeypatch.setitem(compare.__wrapped__.__kwdefaults__, "block_ms", 1.0)  # type: ignore[attr-defined]  # no_grad's


@pytest.fixture
def shared() -> Path:
    """The folder of real data and weights beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip(f"no shared data at {SHARED}")
    return SHARED


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let plans for a speed ask a machine whose times are known."""
    monkeypatch.setattr(planner, "Timing", SteadyTiming)


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """An .npz of 60 + 30 images of 12×12 pixels whose class is their brightest channel: learnt in two epochs."""
    rng = np.random.default_rng(0)

    def part(images: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(images) % 3
        pixels = rng.integers(0, 100, (images, 12, 12, 3))
        pixels[np.arange(images), :, :, labels] += 150
        return pixels.astype(np.uint8), labels

    x_train, y_train = part(60)
    x_test, y_test = part(30)
    path = tmp_path / "colours.npz"
    np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return path


@pytest.fixture
def quick_runs(monkeypatch: pytest.MonkeyPatch, steady: None) -> None:
    """Runs on a machine whose times are known, and with times of files from which no figure is taken."""
    monkeypatch.setattr("ghostify.jobs.row.COMPARISONS", 1)
    monkeypatch.setattr("ghostify.jobs.row.BLOCKS", 6)
    monkeypatch.setattr("ghostify.jobs.row.BLOCK_MS", 1.0)
    monkeypatch.setattr("ghostify.jobs.tune.LEAST_STEPS", 2)
