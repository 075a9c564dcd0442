"""Networks are found by name, and what is wrong with a name is said."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.ops import SqueezeExcitation

from ghostify import GhostModule, InputError, create_model, list_models
from ghostify.cli import main
from ghostify.models.registry import CIFAR_MODELS, Origin, known_origin, origin_of, takes_option


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
        ("resnet18", r"did you mean torchvision:resnet18 or timm:resnet18\?"),
        ("ResNet-18", r"did you mean torchvision:resnet18 or timm:resnet18\?"),
        ("torchvision/resnet18", r"did you mean torchvision:resnet18 or"),
        ("torchvision.models.resnet18", r"did you mean torchvision:resnet18 or"),
        ("efficientnet_b0", r"did you mean torchvision:efficientnet_b0 or timm:efficientnet_b0\?"),
        ("torchvision:resnet19", "did you mean torchvision:resnet1"),
        ("torchvision:ResNet18", r"did you mean torchvision:resnet18 or timm:resnet18\?"),
        ("torchvision:convnext_atto", r"did you mean timm:convnext_atto\?"),
        ("torchvison:resnet18", r"no module 'torchvison' to import \(did you mean torchvision:resnet18 or"),
        ("timm:resnet_18", r"did you mean timm:resnet18 or torchvision:resnet18\?"),
        ("timm:ghostnet_10", "did you mean timm:ghostnet_1"),
        ("timm:resnet20", r"did you mean resnet20\?"),
        ("wholly_unknown_name", r"there is no network 'wholly_unknown_name': expected"),
        ("no.such.module:net", "no module 'no.such.module'"),
        ("tiny:returns_no_module", "returned int"),
        ("tiny:fails", r"tiny:fails cannot be built: KeyError: 'no such part'"),
        (".:x", "no module '.'"),
        (":x", "no module ''"),
        ("", "expected a name"),
        ("nets/tiny.py:Tiny", r"'nets/tiny\.py' is a file's name: expected a module's"),
        ("tiny:Tiny?depth=3", "takes no option 'depth': it takes num_classes, width"),
        ("tiny:Tiny?width", r"'width' is no option: expected tiny:Tiny\?option=value"),
        ("tiny:Tiny?", r"'' is no option"),
        ("tiny:Tiny?width=8&width=9", "width is there twice"),
        ("tiny:Tiny?width=wide", r"tiny:Tiny cannot be built with width='wide': TypeError"),
        ("touchy:FromFile", r"touchy:FromFile needs path: expected touchy:FromFile\?path=VALUE"),
        ("timm:resnet18?nonsense=1", "cannot be built with .*nonsense"),
        ("torchvision:resnet18?nonsense=1", "cannot be built with .*nonsense"),
        ("unimportable:net", r"unimportable cannot be imported: ZeroDivisionError: division by zero"),
        ("leaving:net", r"leaving cannot be imported: SystemExit: 3"),
    ],
)
def test_an_unknown_network_is_refused_with_what_would_be_right(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "unimportable.py").write_text("1 / 0")
    (tmp_path / "leaving.py").write_text("raise SystemExit(3)")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=message):
        create_model(name)


def test_options_behind_a_name_are_its_builders() -> None:
    model = create_model("tiny:Tiny?width=8&num_classes=5")
    assert (model.conv1.out_channels, model.head.out_features) == (8, 5)
    assert known_origin(model) == Origin("tiny:Tiny", {"width": 8, "num_classes": 5})
    assert create_model("ghost_resnet20?ratio=4", num_classes=3).linear.out_features == 3
    assert create_model("timm:resnet10t?in_chans=1&num_classes=2").conv1[0].in_channels == 1
    assert create_model("torchvision:resnet18?zero_init_residual=true&num_classes=2").fc.out_features == 2
    with pytest.raises(InputError, match="has another width than 4, which is given, too"):
        create_model("tiny:Tiny?width=8", width=4)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("resnet20", (3, 32, 32)),
        ("vgg16_bn", (3, 224, 224)),
        ("torchvision:resnet18", (3, 224, 224)),
        ("torchvision:inception_v3", (3, 299, 299)),
        ("torchvision:efficientnet_b3", (3, 300, 300)),
        ("torchvision:fcn_resnet50", (3, 520, 520)),
        ("torchvision:vit_b_16?image_size=96", (3, 96, 96)),
        ("timm:resnet10t", (3, 176, 176)),
        ("timm:tf_efficientnetv2_s", (3, 300, 300)),
        ("timm:vit_tiny_patch16_224?img_size=96,64&in_chans=1", (1, 96, 64)),
        ("tiny:Tiny", None),
        ("torchvision:retinanet_resnet50_fpn", None),
    ],
)
def test_the_images_that_a_network_is_designed_for_are_known_by_its_name(
    name: str, shape: tuple[int, ...] | None
) -> None:
    assert origin_of(name).input_shape == shape


def test_timm_is_not_imported_where_its_names_are_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)  # an import fails
    assert create_model("torchvision:squeezenet1_1?num_classes=2").num_classes == 2
    assert create_model("tiny:Tiny").head.out_features == 3


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
    [
        ("resnet20", True),
        ("torchvision:resnet18", True),
        ("tiny:Tiny", True),
        ("tiny:for_two_classes", False),
        ("tiny:Tiny?num_classes=4", False),
    ],
)
def test_what_a_builder_takes_is_known(name: str, takes: bool) -> None:
    assert takes_option(name, "num_classes") == takes


def test_a_network_remembers_its_origin_but_not_in_its_state() -> None:
    model = create_model("tiny:Tiny", num_classes=5, width=8)
    origin = known_origin(model)
    assert origin is not None
    assert (origin.name, origin.options) == ("tiny:Tiny", {"num_classes": 5, "width": 8})
    assert not any("origin" in key for key in model.state_dict())


@pytest.fixture
def libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder with a library; the current one has a network of the user's, and files that would hide libraries."""
    for library in ("timm", "onnxruntime", "a_library"):
        (tmp_path / f"{library}.py").write_text("raise SystemExit('the file beside the download ran')")
    (tmp_path / "own_networks.py").write_text("import a_library\ndef net(): return a_library.layer()")
    (tmp_path / "libraries").mkdir()
    library = "from torch import nn\ndef layer(): return nn.Conv2d(3, 4, 1)"
    (tmp_path / "libraries" / "a_library.py").write_text(library)
    monkeypatch.chdir(tmp_path)
    return str(tmp_path / "libraries")


def test_a_file_of_the_current_folder_runs_where_it_is_named_and_never_in_a_librarys_place(
    libraries: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the installed command starts: the current folder is in no place where modules are looked for."""
    monkeypatch.setattr(sys, "path", [libraries, *filter(None, sys.path)])
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    networks = ("timm:resnet10t", "own_networks:net", "a_library:net")
    assert [main(["count", network, "--input-shape", "3,32,32", "--json"]) for network in networks] == [0, 0, 2]
    (line,) = capsys.readouterr().err.splitlines()
    assert "has no callable 'net'" in line


def test_python_m_ghostify_puts_the_current_folder_behind_the_libraries(libraries: str) -> None:
    """From the start on: what the package itself imports is no file of that folder, either."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([libraries, *filter(None, sys.path)]),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "ghostify", "count", "own_networks:net", "--input-shape", "3,32,32", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["params"] == 3 * 4 + 4


def test_a_module_without_the_factory_is_named_with_its_file() -> None:
    """Another of its name may be installed."""
    with pytest.raises(InputError, match=r"module 'tiny' \(.*tiny\.py\) has no callable 'missing'"):
        create_model("tiny:missing")
