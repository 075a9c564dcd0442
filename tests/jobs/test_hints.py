"""The loss of hints in a training loop of the user's own."""

import copy
import dataclasses
import pickle
from pathlib import Path

import pytest
import torch
from tiny_detector import retinanet
from tiny_training import RECIPE
from torch import Tensor, nn

from ghostify import InputError, Teacher, convert, create_model, hints, load_data
from ghostify.fitting.refine import ends_apart
from ghostify.jobs.train import train
from ghostify.modes import evaluating


def photographs(images: int, seed: int) -> Tensor:
    return torch.randn(images, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def trained_resnet() -> nn.Module:
    """Norms have seen images."""
    torch.manual_seed(0)
    model = create_model("resnet20").train()
    with torch.no_grad():
        for seed in range(4):
            model(photographs(32, seed))
    return model.eval()


def apart_on(original: nn.Module, model: nn.Module, x: Tensor) -> float:
    with evaluating(original, model), torch.no_grad():
        target, output = original(x), model(x)
    return float((output - target).square().mean() / target.var())


def test_a_plain_loop_brings_the_network_nearer_to_its_original_on_other_images() -> None:
    original = trained_resnet()
    model = convert(original, ratio=2).model
    before, others = {name: t.clone() for name, t in original.state_dict().items()}, photographs(32, 9)
    loss_of = hints(original, model, [photographs(16, 1), photographs(16, 2)])
    assert len(loss_of.names) > 5
    optimizer = torch.optim.AdamW(loss_of.parameters(), lr=1e-3)
    far = apart_on(original, model, others)
    loss_of.train()
    for step in range(30):
        loss, logits = loss_of(photographs(8, 20 + step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert logits.shape == (8, 10)
    assert apart_on(original, model, others) < 0.7 * far
    assert all(torch.equal(before[name], tensor) for name, tensor in original.state_dict().items())
    assert all(torch.equal(before[name], tensor) for name, tensor in loss_of.original.state_dict().items())
    assert not any(module._forward_hooks for network in (original, model) for module in network.modules())


def test_only_the_network_learns_and_modes_are_the_loops() -> None:
    original, model = create_model("tiny:Tiny").train(), create_model("tiny:Tiny").eval()
    loss_of = hints(original, model, [torch.randn(8, 3, 12, 12)])
    assert original.training
    assert not model.training
    assert not loss_of.training
    learning = {id(p) for p in loss_of.parameters() if p.requires_grad}
    assert learning == {id(p) for p in model.parameters()}
    loss_of.train()
    assert model.training
    assert not any(module.training for module in loss_of.original.modules())
    loss_of(torch.randn(8, 3, 12, 12)).loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters() if p.ndim > 1)
    assert all(p.grad is None for network in (original, loss_of.original) for p in network.parameters())
    assert all(p.requires_grad for p in original.parameters())


def test_the_loss_is_the_one_that_train_learns(colours: Path) -> None:
    """One step of all images, as they are: what the training reports is the loss before it."""
    data = load_data(f"npz:{colours}")
    original, model = create_model("tiny:Tiny"), create_model("tiny:Tiny")
    own = copy.deepcopy(model)
    pixels, _ = data.train.__getitems__(range(60))
    x = (pixels / 255 - torch.tensor(data.mean)[:, None, None]) / torch.tensor(data.std)[:, None, None]
    loss_of = hints(original, own, [x]).train()
    recipe = dataclasses.replace(RECIPE, epochs=1, batch_size=60, augment=False, channels_last=False)
    (epoch,) = train(model, data, recipe, teacher=Teacher(original, weight=1, hints=True))
    assert float(loss_of(x).loss.detach()) == pytest.approx(epoch.train_loss, rel=1e-5)


def test_the_loss_is_the_one_of_refinement() -> None:
    original, x = create_model("tiny:Tiny").eval(), torch.randn(16, 3, 12, 12)
    model = convert(original, ratio=2, calibration=[torch.randn(32, 3, 12, 12)], effort="fast").model
    loss_of = hints(original, model, [x])
    with ends_apart(model, original, loss_of.ends) as refined, torch.no_grad():
        assert float(loss_of(x).loss) == float(refined(x))


def test_channels_that_leave_in_another_order_are_no_distance() -> None:
    original, turned = create_model("tiny:Tiny").eval(), torch.arange(16).roll(5)
    model = copy.deepcopy(original)
    with torch.no_grad():
        for name in ("conv1.weight", "conv1.bias", "bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var"):
            tensor = model.state_dict()[name]
            tensor.copy_(tensor[turned].clone())
        weight = model.get_parameter("conv2.weight")
        weight.copy_(weight[:, turned].clone())
    loss_of = hints(original, model, [torch.randn(32, 3, 12, 12)])
    assert torch.equal(loss_of.ends["conv1"], turned)
    assert float(loss_of(torch.randn(8, 3, 12, 12)).loss.detach()) < 1e-8
    loss_of.to(torch.float64)  # the channels stay numbers
    assert loss_of(torch.randn(8, 3, 12, 12, dtype=torch.float64)).loss.dtype == torch.float32


def test_it_computes_under_autocast_and_can_be_copied_and_pickled() -> None:
    original, model = create_model("tiny:Tiny"), create_model("tiny:Tiny")
    loss_of, x = hints(original, model, [torch.randn(8, 3, 12, 12)]), torch.randn(8, 3, 12, 12)
    with torch.autocast("cpu", torch.bfloat16):
        loss, logits = loss_of(x)
    assert loss.dtype == torch.float32
    assert logits.dtype == torch.bfloat16
    loss.backward()
    exact = float(loss_of(x).loss.detach())
    assert float(loss.detach()) == pytest.approx(exact, rel=0.05)
    for again in (copy.deepcopy(loss_of), pickle.loads(pickle.dumps(loss_of))):
        assert float(again(x).loss.detach()) == exact
        assert again.model is not model
    assert nn.Sequential(loss_of).train()[0].original.training is False  # as a part of another module


class Normalising(nn.Module):
    """A network that changes what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.conv(x.sub_(1)).relu()
        return {"logits": self.head(x.mean((2, 3))), "maps": x}


def test_a_network_may_write_into_its_input_and_return_any_nesting() -> None:
    original, x = Normalising(), torch.randn(8, 3, 12, 12)
    loss, outputs = hints(original, copy.deepcopy(original), [x.clone()])(x)
    assert float(loss.detach()) == 0
    assert outputs.keys() == {"logits", "maps"}


def test_networks_that_do_not_belong_together_are_refused() -> None:
    x = [torch.randn(8, 3, 12, 12)]
    tiny = create_model("tiny:Tiny")
    with pytest.raises(InputError, match=r"the original returns \[2, 3\], the model \[2, 4\]: expected a network and"):
        hints(tiny, create_model("tiny:Tiny", num_classes=4), x)
    with pytest.raises(InputError, match=r"the model, Conv2d, cannot take the batches, \[3, 12, 12\] each: "):
        hints(tiny, nn.Conv2d(4, 4, 3), x)
    with pytest.raises(InputError, match="a detector learns by `ghostify"):
        hints(retinanet(), retinanet(), x)
    with pytest.raises(InputError, match=r"^batches: expected batches of inputs .* without labels$"):
        hints(tiny, tiny, [(x[0], torch.zeros(8))])
    with pytest.raises(InputError, match=r"^batches: 0 images: expected at least two"):
        hints(tiny, tiny, [])
    with pytest.raises(InputError, match=r"^expected a torch.nn.Module, not str"):
        hints("resnet20", tiny, x)


def test_no_more_images_are_read_than_are_matched() -> None:
    tiny, read = create_model("tiny:Tiny"), []

    def endless() -> "object":
        while True:
            read.append(1)
            yield torch.randn(48, 3, 12, 12)

    hints(tiny, tiny, endless())
    assert len(read) == 3
