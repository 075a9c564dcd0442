"""Measurements are kept by value: a second call takes those that are of the same thing, and no others."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small import SHAPE, Net

from ghostify import InputError, plan
from ghostify.changes import Prune, layer
from ghostify.inference.explain import ProfileConditions
from ghostify.planning import timing
from ghostify.planning.measurements import Measurements


def test_measurements_survive_a_cut_and_refuse_another_network(tmp_path: Path) -> None:
    path = tmp_path / "measurements.jsonl"
    known = Measurements(path, {"network": "a"})
    known.add("held-out error", value=1)
    known.add("held-out error", value=2)
    path.write_text(path.read_text()[:-5])
    assert Measurements(path, {"network": "a"}).of("held-out error") == [{"kind": "held-out error", "value": 1}]
    path.write_text(path.read_text() + '{"kind": "plan", "plans": {"a": 1}')  # cut behind an inner object
    assert Measurements(path, {"network": "a"}).of("held-out error") == [{"kind": "held-out error", "value": 1}]
    with pytest.raises(InputError, match="holds measurements of something else"):
        Measurements(path, {"network": "b"})


def test_errors_of_other_sizes_are_measured_anew_and_those_of_the_same_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, file = Net().eval(), tmp_path / "measurements.jsonl"
    batches = [torch.randn(32, *SHAPE)]
    options: dict[str, Any] = {"example": torch.zeros(1, *SHAPE), "calibration": batches, "target_macs": 0.8}
    plan(model, **options, measurements=file)
    before = file.read_text()
    monkeypatch.setattr(layer, "SHARES", (0.75, 0.5, 0.3))
    asked: list[Prune] = []
    own = Prune.output_error
    monkeypatch.setattr(Prune, "output_error", lambda self, *rest: asked.append(self) or own(self, *rest))  # type: ignore[func-returns-value]  # for its side effect
    plan(model, **options, measurements=file)
    assert file.read_text().startswith(before)
    assert [change.kept for change in asked] == [5], "12 and 8 are known by value, whatever their place in a list"


def test_rows_of_another_build_are_passed_over_and_another_function_is_refused(tmp_path: Path) -> None:
    model, file = Net().eval(), tmp_path / "measurements.jsonl"
    options: dict[str, Any] = {"example": torch.zeros(1, *SHAPE), "calibration": [torch.randn(32, *SHAPE)]}
    first = plan(model, **options, target_macs=0.8, measurements=file)
    rows = (
        *("[]", "5", "{}", "[" * 100_000, '{"kind": "held-out error"}'),
        '{"kind": "held-out error", "layer": "conv1", "change": null, "error": 1.0}',
        '{"kind": "held-out error", "layer": "conv1", "change": {"kind": "prune", "kept": 8}, "error": 1.0}',
        '{"kind": "held-out error", "layer": "conv1", "change": {"kind": "gone", "kept": 8}, "error": 1.0}',
        '{"kind": "held-out error", "layer": "conv1", "error": NaN, "change": {"kind": "keep", "kept": 16}}',
    )
    with file.open("ab") as opened:
        opened.write("\n".join(rows).encode() + b"\xff")
    assert dict(plan(model, **options, target_macs=0.8, measurements=file)) == dict(first)
    other = Net().eval()
    other.load_state_dict(model.state_dict())
    other.norm1.eps = 0.5
    with pytest.raises(InputError, match="holds measurements of something else"):
        plan(other, **options, target_macs=0.8, measurements=file)


def test_profiles_of_another_machine_engine_or_version_are_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    model, file = Net().eval(), tmp_path / "measurements.jsonl"
    profiled: list[str] = []

    def layer_ms(network: Any, example: Any, conditions: ProfileConditions, *, homes: Any) -> dict[str, float]:
        profiled.append(conditions.precision)
        return dict.fromkeys((*homes, ""), 1.0)

    monkeypatch.setattr(timing, "layer_ms", layer_ms)
    monkeypatch.setattr(timing, "deploy", lambda model, example, engine: model)
    monkeypatch.setattr(timing, "compare", lambda *args, **kwargs: (_ for _ in ()).throw(InterruptedError))
    options: dict[str, Any] = {
        "example": torch.zeros(1, *SHAPE),
        "calibration": [torch.randn(32, *SHAPE)],
        "target_speedup": 1.2,
        "measurements": file,
    }

    def profiles(**changed: Any) -> int:
        profiled.clear()
        with pytest.raises(InterruptedError):
            plan(model, **(options | changed))
        return len(profiled)

    assert profiles() == timing.SAMPLES + 1
    assert profiles() == 0, "an interrupted plan goes on"
    assert profiles(threads=2) == timing.SAMPLES + 1
    assert profiles(int8=True) == timing.SAMPLES + 1
    assert set(profiled) == {"int8"}
    environment = timing.describe_environment()
    monkeypatch.setattr(timing, "describe_environment", lambda *_: environment | {"processor": "another"})
    assert profiles() == timing.SAMPLES + 1
    monkeypatch.setattr(timing, "describe_environment", lambda *_: environment | {"torch": "another"})
    assert profiles() == timing.SAMPLES + 1
