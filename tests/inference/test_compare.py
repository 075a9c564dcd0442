"""A comparison in each engine; never the clock."""

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
