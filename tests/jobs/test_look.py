"""What is told of a layer's maps, and what is written of it."""

import base64
import dataclasses
import io
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2.functional import pil_to_tensor

from ghostify import InputError, convert, create_model
from ghostify.jobs.look import layers_to_pick, look, put_beside
from ghostify.jobs.look_page import page_layer, write_look
from ghostify.layers import GhostConv2d
from ghostify.measure import pictures
from ghostify.measure.stages import layers_with_maps


class Copies(nn.Module):
    """A layer of which each second map is three times the one before, shifted down by a pixel."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.copy = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        with torch.no_grad():
            self.copy.weight.zero_()
            self.copy.weight[:, 0, 0, 1] = 3.0
        self.both = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        intrinsic = self.first(x)
        return self.both(torch.stack([intrinsic, self.copy(intrinsic)], 2).flatten(1, 2))


def photograph(size: int = 24) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(1, 3, size, size)


def test_ghosts_that_are_there_are_found_with_their_filters() -> None:
    (layer,) = look(Copies(), photograph(), ["both"])
    assert layer.sizes == (1, 3, 5, 7)
    assert len(layer.pairs[3]) == 8
    for pair in layer.pairs[3]:
        assert pair.target - pair.source in (1, -1)
        assert pair.target // 2 == pair.source // 2
        assert pair.filters[3].error < 0.1 < pair.filters[1].error
    odd = torch.arange(1, 16, 2)
    assert torch.equal(layer.partners[3].source[odd], odd - 1)
    assert layer.partners[3].error[odd].max() < 1e-9
    wanted = torch.zeros(3, 3, dtype=torch.float64)
    wanted[0, 1] = 3.0
    assert torch.allclose(layer.partners[3].weight[odd], wanted.expand(8, 3, 3), atol=1e-6)
    shares = dict(zip(*layer.explained["3×3 filters"], strict=True))
    assert shares[8] > 0.999  # eight intrinsic maps and their ghosts are all there is
    assert shares[8] > dict(zip(*layer.explained["dropped"], strict=True))[8]


def test_the_numbers_are_json_and_those_of_the_layer() -> None:
    (layer,) = look(Copies(), photograph(), ["both"])
    numbers = json.loads(json.dumps(layer.numbers()))
    assert numbers["maps"] == 16
    assert numbers["partners"]["3"]["source"][1] == 0
    assert numbers["partners"]["3"]["weight"][1][1] == pytest.approx(3.0)
    assert numbers["pairs"]["3"][0]["filters"]["3"]["error"] == pytest.approx(
        layer.pairs[3][0].filters[3].error, rel=1e-3
    )
    assert set(numbers["explained"]) == {"dropped", "combinations", *(f"{d}×{d} filters" for d in (1, 3, 5, 7))}


def test_a_layers_own_ghosts_are_marked() -> None:
    torch.manual_seed(0)
    ghost = convert(Copies(), skip=["copy"]).model
    (layer,) = look(ghost, photograph(), ["first"])
    assert layer.intrinsic is not None
    assert layer.intrinsic.tolist() == [True] * 4 + [False] * 4
    (layer,) = look(create_model("ghost_vgg16_cifar").eval(), photograph(32), ["features.0"])
    assert layer.intrinsic is not None
    assert layer.intrinsic.tolist() == [True] * 32 + [False] * 32


def test_grouped_ghosts_are_marked_where_they_stand() -> None:
    layer = GhostConv2d(4, 8, 3, groups=2)
    assert layer.cheap is not None
    assert layer.cheap.bias is not None
    with torch.no_grad():
        layer.cheap.weight.zero_()
        layer.cheap.bias.fill_(7.0)
    maps = layer(torch.randn(1, 4, 6, 6))[0]
    assert torch.equal(layer.intrinsic_maps, ~(maps == 7.0).all(2).all(1))


def test_a_ghost_beside_is_told_map_by_map() -> None:
    original = Copies()
    ghost = Copies()
    ghost.load_state_dict(original.state_dict())
    with torch.no_grad():
        ghost.first.weight[2] *= 0.5
    (layer,) = look(original, photograph(), ["both"], against=ghost)
    assert layer.beside is not None
    assert layer.beside.paired_by == "place"
    # Half of map 4 and of its copy is missing: a quarter of the mean square; with no mean to speak of, of the variance.
    assert layer.beside.error[[0, 1, 2, 3, 6, 7]].eq(0).all()
    mean = layer.maps[4].double().mean()
    variance = layer.maps[4].double().var(correction=0)
    assert float(layer.beside.error[4]) == pytest.approx(float(0.25 * (variance + mean**2) / variance), rel=1e-5)


def test_maps_in_another_order_are_paired_by_likeness() -> None:
    torch.manual_seed(0)
    maps = torch.randn(6, 5, 7)
    order = torch.tensor([4, 2, 0, 5])
    beside = put_beside(maps, maps[order] + 0.01 * torch.randn(4, 5, 7), nn.Conv2d(3, 4, 1))
    assert beside.paired_by == "likeness"
    assert torch.equal(beside.original, order)
    assert beside.error.max() < 0.01


def test_a_layer_of_merged_inputs_makes_no_ghosts_and_keeps_its_maps_in_their_places() -> None:
    original, ghost = Copies(), Copies()
    ghost.first = GhostConv2d.like(original.first, ratio=1, merged=2)  # type: ignore[assignment]  # a drop-in
    (layer,) = look(original, photograph(), ["first"], against=ghost)
    assert layer.intrinsic is None
    assert layer.beside is not None
    assert layer.beside.paired_by == "place"


def test_the_page_and_the_pictures_are_written(tmp_path: Path) -> None:
    original = Copies()
    layers = look(original, photograph(), ["first", "both"], against=convert(original, skip=["copy"]).model)
    write_look(tmp_path, layers, title="copies", image="noise", against="ghost")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["against.png", "look.html", "look.png"]
    for name in ("look.png", "against.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.size[0] > 500
    page = (tmp_path / "look.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in page


def test_a_page_with_512_maps_is_light() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 512, 1))
    (layer,) = look(network, torch.randn(1, 3, 24, 24), ["0"])
    # Noise: the least that a picture can be packed. Of maps that take filters of all sizes there are as many numbers.
    layer = dataclasses.replace(layer, maps=torch.randn(512, 56, 56))
    assert len(json.dumps(page_layer(layer))) < 4e6  # the page around it is 30 kB


def test_stages_that_show_nothing_are_left_out_unless_asked_for() -> None:
    torch.manual_seed(0)
    network = create_model("vgg16_cifar").eval()
    names = [layer.name for layer in look(network, photograph(32))]
    assert names == [f"features.{i}" for i in (5, 12, 22, 32)]  # the last stage's maps have four pixels
    with torch.no_grad():
        network.features[21].bias.fill_(-100.0)  # a dead ReLU behind
    assert [layer.name for layer in look(network, photograph(32))] == ["features.5", "features.12"]


def test_layers_are_picked_by_patterns_each_once() -> None:
    network = create_model("resnet20").eval()
    picked = ["layer1.0.conv*", "layer1.0.conv1", "layer[12].1.bn2"]
    names = [layer.name for layer in look(network, photograph(16), picked)]
    assert names == ["layer1.0.conv1", "layer1.0.conv2", "layer1.1.bn2", "layer2.1.bn2"]
    known = layers_to_pick(network, photograph(16))
    assert known[:3] == ["conv1", "bn1", "layer1.0.conv1"]
    assert "linear" not in known
    assert not any(name.startswith("layer3") for name in layers_to_pick(network, photograph(8)))  # maps of four pixels
    with torch.no_grad():
        network.layer1[0].conv2.weight.zero_()
    names = [layer.name for layer in look(network, photograph(16), ["layer1.0.conv*"])]
    assert names == ["layer1.0.conv1"], "constant ones need not be refused where nobody named them"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("conv2", "there is no layer 'conv2' in this network: expected one of conv1, "),
        ("layer4.*", "there is no layer 'layer4.*' in this network: expected one of "),
        ("linear", "linear makes no maps [batch, maps, height, width] of this network's input: expected one of "),
        ("", "there is no layer '' in this network: expected one of conv1, bn1, layer1.0.conv1, "),
    ],
)
def test_where_a_wrong_layer_is_named_those_that_can_be_picked_are_listed(wrong: str, message: str) -> None:
    network = create_model("resnet20").eval()
    with pytest.raises(InputError) as refused:
        look(network, photograph(16), ["conv1", wrong])
    said = str(refused.value)
    assert said.startswith(message)
    listed = said.partition("expected one of ")[2].split(", ")
    assert sorted(listed) == sorted(layers_with_maps(network, photograph(16)))
    assert len(said.splitlines()) == 1


def test_a_long_list_of_layers_is_cut_with_their_number() -> None:
    with pytest.raises(InputError, match=r" and \d+ more$") as refused:
        look(create_model("resnet56").eval(), photograph(16), ["conv9"])
    assert len(str(refused.value)) < 1500


def test_the_photograph_is_in_the_page_as_the_network_got_it(tmp_path: Path) -> None:
    pixels = torch.randint(0, 256, (3, 24, 20), dtype=torch.uint8)
    drawn = pictures.photograph(pixels)
    assert (drawn.height, drawn.width) == (24, 20)
    shown = Image.open(io.BytesIO(base64.b64decode(drawn.uri.partition(",")[2])))
    assert torch.equal(pil_to_tensor(shown), pixels)
    write_look(tmp_path, look(Copies(), photograph(), ["first"]), title="copies", image="noise", photograph=pixels)
    assert drawn.uri in (tmp_path / "look.html").read_text()


def test_layers_that_show_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="both makes 0 maps that are not constant, of 24×24 pixels: expected"):
        look(Copies(), torch.zeros(1, 3, 24, 24), ["both"])
    with pytest.raises(InputError, match="no stages of convolutions: name a layer"):
        look(nn.Sequential(nn.ReLU(), nn.Flatten()), photograph())
    with pytest.raises(InputError, match="expected a network and its ghost"):
        look(nn.Sequential(nn.Conv2d(3, 4, 3)), photograph(), ["0"], against=nn.Sequential(nn.Conv2d(3, 4, 5)))
