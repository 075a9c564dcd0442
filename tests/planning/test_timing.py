"""An engine is asked for the time of each layer, and of whole networks; how long they take is no matter here."""

from pathlib import Path

import pytest
import torch
from small import Blocks

from ghostify import count
from ghostify.changes import AnyPlan, BlockPlan, LayerPlan, OneConvolution, PointwiseGhosts, Prune
from ghostify.inference.engines import FILE_ENGINES
from ghostify.measure.latency import summarise
from ghostify.planning.candidates import find_candidates, offer_for
from ghostify.planning.measurements import Measurements
from ghostify.planning.timing import EngineTiming, Timing
from ghostify.transform.untrained import untrained

SHAPE = (3, 48, 48)  # so that each layer takes some of the microseconds in which OpenVINO counts
EXAMPLE = torch.zeros(1, *SHAPE)


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime", "eager", "compile"])
def test_layers_and_networks_of_a_plan_are_timed_in_the_engine(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if engine in FILE_ENGINES:
        pytest.importorskip(engine)
    whole_compile = torch.compile  # without its compiler, which takes long and is not everywhere
    monkeypatch.setattr(torch, "compile", lambda model, options: whole_compile(model, backend="eager"))
    model = Blocks().eval()
    offer = offer_for("speedup", round_to=4)
    candidates = find_candidates(model, EXAMPLE, count(model, SHAPE), offer, images=torch.randn(4, *SHAPE))
    timing = Timing(model, candidates, EXAMPLE, EngineTiming(engine), Measurements(None, {}), None)
    plans: dict[str, AnyPlan] = {
        "blocks.0.conv1": LayerPlan(Prune(8, 8)),
        "blocks.0.conv2": LayerPlan(PointwiseGhosts(8, 8)),
        "blocks.1": BlockPlan(OneConvolution(16, 1)),
    }
    ms = timing.profile(plans)
    assert set(ms) == {*candidates, ""}
    assert {name for name, took in ms.items() if took == 0} >= {"blocks.1.conv1", "blocks.1.conv2"}
    assert all(ms[name] > 0 for name in (*plans, "blocks.2.conv1"))
    found = timing.of(plans)
    assert (found.engine, found.threads) == (engine, 1)
    assert 0 < found.ratio_low <= found.ratio <= found.ratio_high


def test_a_network_in_the_shape_of_a_plan_is_on_the_device_of_its_original(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ghostify.transform.untrained.find_dropped", lambda *_: {})  # which runs it, and not there
    plans: dict[str, AnyPlan] = {
        "blocks.0.conv2": LayerPlan(PointwiseGhosts(8, 8)),
        "blocks.1": BlockPlan(OneConvolution(16, 1)),
    }
    shaped = untrained(Blocks().eval().to("meta"), plans, EXAMPLE.to("meta"))
    assert all(parameter.is_meta for parameter in shaped.parameters())


def test_in_int8_layers_have_their_own_times_and_the_original_is_in_float32() -> None:
    model = Blocks().eval()
    offer = offer_for("speedup", round_to=4)
    candidates = find_candidates(model, EXAMPLE, count(model, SHAPE), offer, images=torch.randn(4, *SHAPE))
    timing = Timing(
        model, candidates, EXAMPLE, EngineTiming("openvino", precision="int8"), Measurements(None, {}), None
    )
    plans: dict[str, AnyPlan] = {"blocks.0.conv2": LayerPlan(PointwiseGhosts(8, 8))}
    ms = timing.profile(plans)
    assert set(ms) == {*candidates, ""}
    assert all(ms[name] > 0 for name in ("blocks.0.conv1", "blocks.0.conv2", "blocks.2.conv1"))
    assert timing.of(plans).precisions == ("fp32", "int8")
    alike = timing.in_same_precision(plans)
    assert alike is not None
    assert alike.precisions == ("int8", "int8")
    assert timing.engine.described()["precision"] == "int8"


def test_times_of_whole_networks_are_read_from_the_file_and_each_asking_is_one_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Blocks().eval()
    offer = offer_for("speedup", round_to=4)
    candidates = find_candidates(model, EXAMPLE, count(model, SHAPE), offer, images=torch.randn(4, *SHAPE))
    plans: dict[str, AnyPlan] = {"blocks.0.conv2": LayerPlan(PointwiseGhosts(8, 8))}
    measured = [summarise([10.0] * 9, [speed] * 9) for speed in (5.0, 6.0)]
    answers = iter(measured)
    monkeypatch.setattr("ghostify.planning.timing.compare", lambda *_, **__: next(answers))

    def timing() -> Timing:
        known = Measurements(tmp_path / "measurements.jsonl", {})
        return Timing(model, candidates, EXAMPLE, EngineTiming("openvino"), known, None)

    first = timing()
    assert [first.of(plans), first.of(plans)] == measured
    again = timing()
    assert [again.of(plans), again.of(plans)] == measured
    with pytest.raises(StopIteration):  # a third is not known yet
        again.of(plans)
