"""A comparison in each engine; never the clock."""

import logging
from collections.abc import Callable

import pytest
import torch
from torch import nn

from ghostify import InputError, compare, create_model


def test_compare_gives_networks_threads_and_gradients_back_as_they_were() -> None:
    a, b = create_model("tiny:Tiny"), create_model("tiny:Tiny").eval()
    threads = torch.get_num_threads()
    found = compare(a, b, torch.zeros(2, 3, 8, 8), blocks=6, block_ms=1)
    assert (found.blocks, found.threads, found.engine) == (6, 1, "eager")
    assert found.ratio_low <= found.ratio <= found.ratio_high
    assert a.training
    assert not b.training
    assert torch.get_num_threads() == threads
    assert torch.is_grad_enabled()


def test_an_unknown_engine_and_too_few_blocks_are_refused() -> None:
    layer = nn.Identity()
    with pytest.raises(InputError, match="expected one of eager, compile, onnxruntime, openvino"):
        compare(layer, layer, torch.zeros(1), engine="tensorrt")
    with pytest.raises(InputError, match="at least 1 and 6"):
        compare(layer, layer, torch.zeros(1), blocks=2)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_file_engines_time_both_networks_in_processes_of_their_own(engine: str) -> None:
    network = create_model("tiny:Tiny").eval()
    found = compare(network, network, torch.zeros(2, 3, 8, 8), engine=engine, blocks=6, block_ms=0.1)
    assert (found.blocks, found.engine, found.dtype) == (6, engine, "float32")
    assert found.least_ms is not None
    assert found.first_ms is not None
    assert 0 < found.least_ms[0] <= found.a_ms
    assert 0 < found.least_ms[1] <= found.b_ms
    assert min(found.first_ms) > 0


def test_what_an_engine_cannot_do_is_said_in_a_line() -> None:
    network, example = create_model("tiny:Tiny").eval(), torch.zeros(2, 3, 8, 8, dtype=torch.bfloat16)
    with pytest.raises(InputError, match="onnxruntime has no bf16"):
        compare(network, network, example, engine="onnxruntime", blocks=6)


def test_comparing_leaves_logs_and_compiled_functions_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    assert logging.getLogger("torch.utils.cpp_extension").level == logging.NOTSET
    compiled: list[object] = []

    def count_and_run(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., object]:
        compiled.append(graph)
        return graph.forward

    whole_compile = torch.compile
    theirs = whole_compile(lambda x: x + 1, backend=count_and_run)
    theirs(torch.zeros(3))
    monkeypatch.setattr(torch, "compile", lambda model, options: whole_compile(model, backend=count_and_run))
    example = torch.zeros(2, 3, 8, 8)
    for width in range(8, 14):
        a, b = (create_model("tiny:Tiny", width=width, num_classes=classes) for classes in (3, 4))
        compare(a, b, example, engine="compile", blocks=6, block_ms=1)
    # More of one class than the compiler takes by default, and each is compiled.
    assert len(compiled) == 1 + 12
    theirs(torch.zeros(3))
    assert len(compiled) == 1 + 12
