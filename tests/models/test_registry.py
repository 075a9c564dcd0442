"""Networks are found by name, and what is wrong with a name is said."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.ops import SqueezeExcitation

from ghostify import GhostModule, InputError, create_model, list_models
from ghostify.models.registry import CIFAR_MODELS, known_origin, takes_option


@pytest.mark.parametrize("name", list_models())
def test_every_name_builds_a_network_with_the_asked_outputs(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name, num_classes=7).eval()
        size = 32 if name in CIFAR_MODELS else 64
        assert model(torch.empty(2, 3, size, size)).shape == (2, 7)


@pytest.mark.parametrize("name", [name for name in list_models() if name.startswith("ghost")])
def test_ghost_builders_take_ratio_and_filter_size(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name, ratio=4, cheap_kernel_size=5)
    ghosts = [module for module in model.modules() if isinstance(module, GhostModule)]
    assert ghosts
    for ghost in ghosts:
        intrinsic = ghost.primary_conv[0].out_channels
        assert intrinsic == -(-ghost.out_channels // 4)
        assert ghost.cheap_operation[0].weight.shape == (3 * intrinsic, 1, 5, 5)


def test_ghost_vgg_has_no_second_norm_or_activation_behind_a_ghost_module() -> None:
    features = create_model("ghost_vgg16_cifar").features
    assert {type(layer) for layer in features} == {GhostModule, nn.MaxPool2d}


def test_ghost_mobilenet_ghosts_expansions_and_projections_alone() -> None:
    ghost, original = create_model("ghost_mobilenet_v3_large"), create_model("mobilenet_v3_large")
    pointwise = [
        m
        for name, m in original.named_modules()
        if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1) and ".block." in name and ".fc" not in name
    ]
    assert sum(isinstance(m, GhostModule) for m in ghost.modules()) == len(pointwise)
    gates = [sum(isinstance(m, SqueezeExcitation) for m in net.modules()) for net in (ghost, original)]
    assert gates[0] == gates[1] > 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet65", "did you mean resnet56"),
        ("torchvision:resnet19", "did you mean resnet1"),
        ("timm:ghostnet_10", "did you mean ghostnet_1"),
        ("no.such.module:net", "no module 'no.such.module'"),
        ("tiny:returns_no_module", "returned int"),
        ("tiny:fails", r"tiny:fails cannot be built: 'no such part'"),
        (".:x", "no module '.'"),
        (":x", "no module ''"),
        ("", "expected a name"),
    ],
)
def test_an_unknown_network_is_refused_with_what_would_be_right(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        create_model(name)


def test_an_option_that_the_builder_lacks_or_that_would_download_is_refused() -> None:
    with pytest.raises(InputError, match="takes no option 'depth'"):
        create_model("resnet20", depth=3)
    for weights in ("DEFAULT", ""):
        with pytest.raises(InputError, match="weights is not taken"):
            create_model("resnet50", weights=weights)


@pytest.mark.parametrize("num_classes", [-1, 10**14, 10**30])
def test_a_size_that_no_layer_can_have_is_refused_in_one_line(num_classes: int) -> None:
    with pytest.raises(InputError, match=r"^resnet20 cannot be built with .*: [^\n]+\Z"):
        create_model("resnet20", num_classes=num_classes)


@pytest.mark.parametrize(
    ("name", "takes"),
    [("resnet20", True), ("torchvision:resnet18", True), ("tiny:Tiny", True), ("tiny:for_two_classes", False)],
)
def test_what_a_builder_takes_is_known(name: str, takes: bool) -> None:
    assert takes_option(name, "num_classes") == takes


def test_a_network_remembers_its_origin_but_not_in_its_state() -> None:
    model = create_model("tiny:Tiny", num_classes=5, width=8)
    origin = known_origin(model)
    assert origin is not None
    assert (origin.name, origin.options) == ("tiny:Tiny", {"num_classes": 5, "width": 8})
    assert not any("origin" in key for key in model.state_dict())


# Each asks for a library's network, for one of the user's own, and for one that the user's file would have to make; the
# first as the installed `ghostify` does, one verb after the other in a process.
CONSOLE = """
import sys
from ghostify.cli import main
for model in ("timm:resnet10t", "own_networks:net", "onnxruntime:net"):
    print(main(["count", model, "--input-shape", "3,32,32", "--json"]))
"""
SHORT = ["--input-shape", "3,32,32", "--blocks", "6", "--json"]


@pytest.mark.parametrize(
    "start",
    [["-P", "-c", CONSOLE], ["-m", "ghostify", "compare", "timm:resnet10t", "own_networks:net", *SHORT]],
    ids=["console", "module"],
)
def test_a_file_of_the_current_folder_runs_where_it_is_named_and_never_in_a_librarys_place(
    start: list[str], tmp_path: Path
) -> None:
    for library in ("timm", "onnxruntime"):
        (tmp_path / f"{library}.py").write_text("raise SystemExit('the file beside the download ran')")
    (tmp_path / "own_networks.py").write_text("from torch import nn\ndef net(): return nn.Conv2d(3, 4, 1)")
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, *start]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "the file beside the download ran" not in done.stderr
    if "-c" in start:
        assert [line for line in done.stdout.splitlines() if not line.startswith("{")] == ["0", "0", "2"]
        assert "has no callable 'net'" in done.stderr


def test_a_module_without_the_factory_is_named_with_its_file() -> None:
    """Another of its name may be installed."""
    with pytest.raises(InputError, match=r"module 'tiny' \(.*tiny\.py\) has no callable 'missing'"):
        create_model("tiny:missing")
