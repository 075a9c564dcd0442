"""Forms are chosen by what a comparison measures; never the clock."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ghostify import GhostConv2d, InputError, choose_forms, deploy
from ghostify.inference import forms
from ghostify.measure.latency import summarise


class Twins(nn.Module):
    """Two layers alike, and one of another kind."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (GhostConv2d(8, 8, 3, padding=1) for _ in range(2))
        self.dense = GhostConv2d(8, 8, 1, cheap="pointwise")

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(self.b(self.a(x).relu()).relu()).mean((2, 3))


def test_a_form_is_taken_where_the_whole_interval_says_that_it_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    def joins_are_faster(a: Any, b: Any, example: Tensor, **options: Any) -> Any:
        joined = [sum(ghost.form == "joined" for ghost in network.ghosts) for network in (a, b)]
        found = summarise([10.0] * 8, [10.0 - joined[1] + joined[0]] * 8)
        assert not found.different or joined[0] != joined[1]
        return found

    monkeypatch.setattr(forms, "compare", joins_are_faster)
    network, example = Twins().eval(), torch.randn(1, 8, 9, 7)
    chosen, trials = choose_forms(network, example)
    assert chosen == {"a": "joined", "b": "joined", "dense": "joined"}
    assert [(trial.layers, trial.form, trial.taken) for trial in trials] == [
        (("a", "b"), "joined", True),
        (("dense",), "split", False),  # as fast as dense
        (("dense",), "joined", True),
    ]
    assert {ghost.name: ghost.form for ghost in deploy(network, example, forms=chosen).ghosts} == chosen


def test_a_network_without_ghosts_is_refused() -> None:
    with pytest.raises(InputError, match="has no ghost layers"):
        choose_forms(nn.Conv2d(3, 8, 1), torch.randn(1, 3, 8, 8))


def test_the_networks_that_are_timed_are_those_of_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[Any] = []

    def none_is_faster(a: Any, b: Any, example: Tensor, **options: Any) -> Any:
        timed.extend((a, b))
        return summarise([10.0] * 8, [10.0] * 8)

    monkeypatch.setattr(forms, "compare", none_is_faster)
    network, example = Twins().eval(), torch.randn(1, 8, 9, 7)
    for engine, form in (("eager", "joined"), ("openvino", "split")):
        timed.clear()
        chosen, trials = choose_forms(network, example, engine=engine)
        expected = deploy(network, example, engine=engine)
        assert (
            chosen == {ghost.name: ghost.form for ghost in expected.ghosts} == {"a": form, "b": form, "dense": "dense"}
        )
        assert {deployed.memory_format for deployed in timed} == {expected.memory_format}
        assert len(trials) == 3


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(InputError, match=r"^engine is 'egaer': expected one of eager, compile, onnxruntime, openvino$"):
        choose_forms(Twins(), torch.randn(1, 8, 9, 7), engine="egaer")


def test_an_example_that_is_no_batch_is_refused() -> None:
    with pytest.raises(InputError, match=r"expected an input \[batch, channels, height, width\]"):
        choose_forms(Twins(), torch.randn(8, 9, 7))
