"""Training repeats, resumes and stops as it says."""

import csv
import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import killing
import numpy as np
import processes
import pytest
import torch
import two_processes
from accelerate.state import AcceleratorState, PartialState, is_initialized
from tensorboard.backend.event_processing import event_accumulator
from tiny_training import RECIPE, trained
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, get_worker_info

from ghostify import InputError, create_model
from ghostify.data import load_data
from ghostify.data.images import Batch, MemoryImages
from ghostify.jobs.accelerator import accelerator_on
from ghostify.jobs.checkpoint import CHECKPOINT_FORMAT, Epoch
from ghostify.jobs.cuda_graph import forget_, record_, recording
from ghostify.jobs.evaluate import evaluate
from ghostify.jobs.learn import (
    RunOptions,
    drops_last,
    lr_factor,
    make_optimizer,
    trains_in_bf16,
)
from ghostify.jobs.recipe import Recipe
from ghostify.jobs.train import Classification, Teacher, train
from ghostify.jobs.training_folder import TrainingFolder, best_epoch
from ghostify.network_file import load


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_it_learns(colours: Path, optimizer: str) -> None:
    data = load_data(f"npz:{colours}")
    model = trained(colours, dataclasses.replace(RECIPE, epochs=8, optimizer=optimizer, lr=0.02))
    assert evaluate(model, data.test, data).top1 > 0.9


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(colours: Path) -> None:
    assert same(trained(colours), trained(colours))
    assert not same(trained(colours), trained(colours, dataclasses.replace(RECIPE, seed=1)))


def test_a_resumed_training_equals_an_undisturbed_one(colours: Path, tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    def stop(task: str, detail: str, done: int, total: int) -> None:
        if done == total // 2:  # amid the second of three epochs
            raise StopError

    place = tmp_path / "checkpoint.pt"
    with pytest.raises(StopError):
        trained(colours, checkpoint=place, progress=stop)
    assert same(trained(colours, checkpoint=place, resume=True), trained(colours))


def test_checkpoints_may_be_fewer_and_the_last_is_always_there(colours: Path, tmp_path: Path) -> None:
    place, there = tmp_path / "checkpoint.pt", []

    def look(task: str, detail: str, done: int, total: int) -> None:
        there.append(place.exists())

    once = trained(colours, checkpoint=place, checkpoint_seconds=3600, progress=look)
    assert not any(there)
    assert same(trained(colours, checkpoint=place, resume=True), once)


def test_a_finished_training_resumes_to_itself(colours: Path, tmp_path: Path) -> None:
    place = tmp_path / "checkpoint.pt"
    once = trained(colours, checkpoint=place)
    assert same(trained(colours, checkpoint=place, resume=True), once)


def test_history_tells_each_epoch(colours: Path) -> None:
    history = train(create_model("tiny:Tiny"), load_data(f"npz:{colours}", hold_out=0.2), RECIPE)
    assert [epoch.epoch for epoch in history] == [1, 2, 3]
    assert history[-1].train_loss < history[0].train_loss
    assert all(epoch.val_top1 is not None and 0 <= epoch.val_top1 <= 1 for epoch in history)
    assert all(0 < epoch.data_share < 1 for epoch in history)
    assert history[-1].lr < 0.01


class Diverging(nn.Module):
    """Returns NaN from its seventh training batch on: the first of the third epoch of three batches."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.batches = 0

    def forward(self, x: Tensor) -> Tensor:
        self.batches += self.training
        return self.layer(x.mean((2, 3))) * (math.nan if self.batches > 6 else 1)


def test_a_loss_that_is_nan_stops_and_keeps_the_last_good_checkpoint(colours: Path, tmp_path: Path) -> None:
    place = tmp_path / "checkpoint.pt"
    model = Diverging()
    with pytest.raises(InputError, match=r"loss is nan at step 1 of epoch 3: .* try a lower lr than 0\.05"):
        train(model, load_data(f"npz:{colours}"), RECIPE, options=RunOptions(checkpoint=place))
    kept = torch.load(place, weights_only=True)
    assert len(kept["history"]) == 2
    assert all(t.isfinite().all() for t in kept["model"].values())


def test_a_checkpoint_is_not_overwritten_unasked_nor_resumed_otherwise(colours: Path, tmp_path: Path) -> None:
    place = tmp_path / "checkpoint.pt"
    again = RunOptions(checkpoint=place, resume=True)
    trained(colours, checkpoint=place)
    with pytest.raises(InputError, match="began before: resume it"):
        trained(colours, checkpoint=place)
    with pytest.raises(InputError, match=r"lr was 0\.05; resume with the same"):
        trained(colours, dataclasses.replace(RECIPE, lr=0.1), checkpoint=place, resume=True)
    with pytest.raises(InputError, match="of another network"):
        train(create_model("tiny:Tiny", width=8), load_data(f"npz:{colours}"), RECIPE, options=again)
    place.write_bytes(place.read_bytes()[:-300])
    with pytest.raises(InputError, match="is no training checkpoint, or is cut short"):
        trained(colours, checkpoint=place, resume=True)
    for other in ({"format": "x"}, {"format": CHECKPOINT_FORMAT}, [CHECKPOINT_FORMAT]):
        torch.save(other, place)
        with pytest.raises(InputError, match="no training checkpoint of this version"):
            trained(colours, checkpoint=place, resume=True)


def test_a_checkpoint_with_a_byte_changed_is_refused(colours: Path, tmp_path: Path) -> None:
    place = tmp_path / "checkpoint.pt"
    trained(colours, checkpoint=place)
    whole = place.read_bytes()
    for word in (b"scheduler", b"param_groups", b"val_ap50", b"momentum_buffer"):
        spoiled = bytearray(whole)
        spoiled[whole.index(word)] ^= 1
        place.write_bytes(spoiled)
        with pytest.raises(InputError, match=r"checkpoint\.pt is damaged: start anew"):
            trained(colours, checkpoint=place, resume=True)


def test_a_training_does_not_go_on_with_other_images_or_another_teacher(colours: Path, tmp_path: Path) -> None:
    place, data = tmp_path / "checkpoint.pt", load_data(f"npz:{colours}")
    again = RunOptions(checkpoint=place, resume=True)
    trained(colours, checkpoint=place)
    with pytest.raises(InputError, match=r"training images was 60, held-out images was 0; resume with the same"):
        train(create_model("tiny:Tiny"), load_data(f"npz:{colours}", hold_out=0.2), RECIPE, options=again)
    other = dataclasses.replace(data, mean=(0.5, 0.5, 0.5))
    with pytest.raises(InputError, match=r"mean was \[0\.485"):
        train(create_model("tiny:Tiny"), other, RECIPE, options=again)
    place.unlink()
    teachers = [Teacher(create_model("tiny:Tiny")) for _ in range(2)]
    trained(colours, checkpoint=place, teacher=teachers[0])
    with pytest.raises(InputError, match=r"teacher was [0-9a-f]{16}; resume"):
        trained(colours, checkpoint=place, resume=True, teacher=teachers[1])


def test_a_network_that_does_not_go_with_the_data_is_refused(colours: Path) -> None:
    data = load_data(f"npz:{colours}")
    with pytest.raises(InputError, match=r"has 3 classes and needs \[batch, 3\]"):
        train(create_model("tiny:Tiny", num_classes=2), data, RECIPE)
    with pytest.raises(InputError, match="cannot take the images"):
        train(create_model("vgg16_cifar"), data, RECIPE)


@pytest.mark.parametrize(
    "bad",
    [
        *({"optimizer": "adam"}, {"epochs": 0}, {"lr": -1.0}, {"label_smoothing": 1.0}, {"ema": 0.999}),
        *({"schedule": "x"}, {"seed": -1}, {"seed": 2**32}),
    ],
)
def test_a_bad_recipe_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="expected"):
        Recipe(**bad)


def test_an_epoch_of_the_last_seed_is_as_any_other(colours: Path) -> None:
    last = dataclasses.replace(RECIPE, epochs=1, seed=2**32 - 1)
    assert same(trained(colours, last), trained(colours, last))


@pytest.mark.parametrize(
    ("images", "batch_size", "drops"),
    [(31, 32, False), (32, 32, False), (33, 32, True), (34, 32, False), (63, 32, False), (64, 32, True), (3, 2, True)],
)
def test_a_last_batch_is_dropped_where_it_is_a_small_part_or_one_image(
    images: int, batch_size: int, drops: bool
) -> None:
    assert drops_last(images, batch_size) == drops


def test_norms_of_single_pixels_never_meet_a_batch_of_one_image(colours: Path) -> None:
    data, recipe = load_data(f"npz:{colours}"), dataclasses.replace(RECIPE, epochs=1, batch_size=59)
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 3))
    assert [epoch.images for epoch in train(model, data, recipe)] == [59]
    alone = dataclasses.replace(data, train=MemoryImages(data.train.pixels[:1], data.train.labels[:1]))
    with pytest.raises(InputError, match="there is one training image: expected at least two"):
        train(model, alone, recipe)


def test_too_few_images_for_a_batch_in_each_process_are_refused(colours: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ghostify.jobs.train.make_loader", lambda *_: DataLoader(()))
    with pytest.raises(InputError, match="no batch of 16 for each of 1 processes: expected a smaller batch size"):
        trained(colours)


def test_steps_divide_the_learning_rate_by_ten() -> None:
    recipe = Recipe(epochs=16, schedule="steps", warmup_epochs=0)
    factors = [lr_factor(step, 10, recipe) for step in (0, 79, 80, 119, 120, 149, 150)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01, 0.001])


def test_detectors_twelve_epochs_end_with_two_drops() -> None:
    recipe = Recipe(epochs=12, schedule="1x", warmup_epochs=0)
    factors = [lr_factor(step, 10, recipe) for step in (0, 79, 80, 109, 110, 119)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_norms_and_biases_have_no_weight_decay() -> None:
    decayed, others = make_optimizer(create_model("tiny:Tiny"), Recipe(weight_decay=0.5), 0.1).param_groups
    assert {p.ndim for p in decayed["params"]} == {2, 4}
    assert {p.ndim for p in others["params"]} == {1}
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.5, 0)


def test_frozen_norms_keep_their_statistics(colours: Path) -> None:
    before = create_model("tiny:Tiny").bn1
    for freeze in (False, True):
        norm = trained(colours, dataclasses.replace(RECIPE, freeze_norm=freeze)).bn1
        assert torch.equal(norm.running_mean, before.running_mean) == freeze
        assert torch.equal(norm.running_var, before.running_var) == freeze
        assert not torch.equal(norm.weight, before.weight)


def test_bf16_can_be_asked_for_and_trains(colours: Path) -> None:
    assert trains_in_bf16("bf16", torch.device("cpu"))
    assert not trains_in_bf16("fp32", torch.device("cpu"))
    bf16 = trained(colours, dataclasses.replace(RECIPE, precision="bf16"))
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in bf16.parameters())
    assert not same(bf16, trained(colours))


def test_two_processes_learn_what_one_learns_with_twice_the_batch(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(404) % 3
    pixels = rng.integers(0, 100, (404, 12, 12, 3))
    pixels[np.arange(404), :, :, labels] += 50
    images = {"x_train": pixels.astype(np.uint8), "y_train": labels}
    np.savez(tmp_path / "some.npz", **images, x_test=images["x_train"][:3], y_test=labels[:3])
    found = {}
    # 303 images to fit: 18 steps of 16 an epoch, 54 in all; 101 held out do not divide by two.
    for number, batch_size in ((1, "16"), (2, "8")):
        out = tmp_path / str(number)
        out.mkdir()
        learn = (two_processes.main, str(tmp_path / "some.npz"), "0.25", batch_size, "0.02", "3", str(out))
        assert processes.together(number, *learn) == [0] * number
        found[number] = (
            torch.load(out / "weights.pt", weights_only=True),
            json.loads((out / "counted.json").read_text()),
        )
    (alone, counted), (shared, shared_counted) = found[1], found[2]
    assert counted["images"] == shared_counted["images"] == [288, 288, 288]
    assert counted["val_top1"] == shared_counted["val_top1"]
    assert all(
        float(share * 101).is_integer() or abs(share * 101 - round(share * 101)) < 1e-9 for share in counted["val_top1"]
    )
    assert all(torch.allclose(weight, shared[name], rtol=0, atol=1e-5) for name, weight in alone.items())
    moved = create_model("tiny:Tiny").state_dict()
    assert not torch.allclose(moved["conv2.weight"], alone["conv2.weight"], atol=1e-2)


def test_gathered_gradients_are_those_of_one_large_batch(colours: Path) -> None:
    settings = {"augment": False, "freeze_norm": True, "warmup_epochs": 0.0}
    once = trained(colours, dataclasses.replace(RECIPE, batch_size=20, **settings))
    gathered = trained(colours, dataclasses.replace(RECIPE, batch_size=10, accumulate=2, **settings))
    pairs = zip(once.state_dict().values(), gathered.state_dict().values(), strict=True)
    assert all(torch.allclose(a, b, rtol=0, atol=1e-6) for a, b in pairs)


def test_the_last_step_of_an_epoch_is_as_large_with_fewer_batches_gathered(colours: Path) -> None:
    settings = {"augment": False, "freeze_norm": True, "warmup_epochs": 0.0, "epochs": 1, "batch_size": 30}
    once = trained(colours, dataclasses.replace(RECIPE, **settings | {"batch_size": 60}))
    gathered = trained(colours, dataclasses.replace(RECIPE, **settings, accumulate=4))  # of which there are two
    pairs = zip(once.state_dict().values(), gathered.state_dict().values(), strict=True)
    assert all(torch.allclose(a, b, rtol=0, atol=1e-6) for a, b in pairs)


def test_the_log_tells_the_learning_rate_of_an_epochs_last_step(colours: Path) -> None:
    recipe = dataclasses.replace(RECIPE, epochs=4, schedule="steps", warmup_epochs=0.0, lr=0.1)
    history = train(create_model("tiny:Tiny"), load_data(f"npz:{colours}"), recipe)
    # Drops lie at 1/2, 3/4 and 15/16 of all steps.
    assert [epoch.lr for epoch in history] == pytest.approx([0.1, 0.1, 0.01, 0.001])


def test_the_average_of_the_weights_is_what_a_training_ends_with(colours: Path, tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, epochs=2, ema=2 / 6, augment=False)  # two of six steps: a decay of a half
    weights: list[Tensor] = []
    torch.manual_seed(0)
    model = create_model("tiny:Tiny")
    wanted = model.head.weight.detach().clone()  # the average begins with the first step's weights

    def note(task: str, detail: str, done: int, total: int) -> None:
        weights.append(model.head.weight.detach().clone())

    train(model, load_data(f"npz:{colours}"), recipe, progress=note)
    wanted = weights[0]
    for weight in weights[1:]:
        wanted = 0.5 * wanted + 0.5 * weight
    assert torch.allclose(model.head.weight, wanted, atol=1e-6)

    class StopError(Exception):
        pass

    def stop(task: str, detail: str, done: int, total: int) -> None:
        if done == total - 1:
            raise StopError

    place = tmp_path / "checkpoint.pt"
    with pytest.raises(StopError):
        trained(colours, recipe, checkpoint=place, progress=stop)
    assert same(trained(colours, recipe, checkpoint=place, resume=True), model)


def test_the_log_and_the_best_network_are_of_the_epochs(colours: Path, tmp_path: Path) -> None:
    data = load_data(f"npz:{colours}", hold_out=0.2)
    folder = TrainingFolder(tmp_path / "out", data.preprocessing, tensorboard=True)
    folder.begin({"model": "tiny"}, "cpu")
    torch.manual_seed(0)
    model = create_model("tiny:Tiny")
    seen: list[Tensor] = []

    def after_epoch(history: list[Epoch], network: nn.Module) -> None:
        seen.append(network.head.weight.detach().clone())
        folder.after_epoch(history, network)

    history = train(model, data, RECIPE, options=RunOptions(checkpoint=folder.checkpoint), after_epoch=after_epoch)
    with (tmp_path / "out" / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["val_top1"]) for row in rows] == [epoch.val_top1 for epoch in history]
    assert all(float(row["images_per_second"]) > 0 for row in rows)
    best = best_epoch(history)
    assert best is not None
    assert history[best - 1].val_top1 == max(epoch.val_top1 or 0 for epoch in history)
    assert torch.equal(load(tmp_path / "out" / "best.safetensors", factory="tiny:Tiny").head.weight, seen[best - 1])
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert settings["model"] == "tiny"
    assert "torch" in settings["environment"]
    events = event_accumulator.EventAccumulator(str(tmp_path / "out" / "tensorboard")).Reload()
    logged = [event.value for event in events.Scalars("val_top1")]
    assert logged == pytest.approx([epoch.val_top1 for epoch in history])


def test_changes_of_a_folders_images_are_refused_for_images_in_memory(colours: Path) -> None:
    with pytest.raises(InputError, match=r"are for images of a folder: npz:.* is in memory"):
        trained(colours, dataclasses.replace(RECIPE, rand_augment=True))


def test_a_killed_training_goes_on_to_the_same_weights(colours: Path, tmp_path: Path) -> None:
    kills = 3
    seconds = killing.train_whole(colours, tmp_path / "whole", kills)
    deaths = killing.train_killed(colours, tmp_path / "killed", kills, seconds)
    assert set(deaths) == {"at random", "amid a checkpoint"}
    assert killing.differences(tmp_path / "whole", tmp_path / "killed") == []


def test_torchrun_starts_two_processes_that_share_the_images(colours: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["tiny:Tiny", "--data", f"npz:{colours}", "--epochs", "1", "--batch-size", "8", "--out", str(out)]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, "-m", "ghostify", "train", *arguments, "--device", "cpu", "--hold-out", "0.2"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # 48 images are 6 batches of 8, of which each of two processes has 3; one of them tells.
    assert "(1/3)" in done.stderr
    assert done.stderr.count("(3/3)") == 1
    # Both have judged the network that is written, though each has seen other images.
    network, data = load(out / "network.safetensors", factory="tiny:Tiny"), load_data(f"npz:{colours}", hold_out=0.2)
    assert data.val is not None
    told = json.loads((out / "history.json").read_text())["history"][-1]["val_top1"]
    assert evaluate(network, data.val, data).top1 == told


def test_a_recorded_step_needs_a_gpu_and_whole_batches(colours: Path) -> None:
    with pytest.raises(InputError, match="one process on a CUDA device"):
        trained(colours, dataclasses.replace(RECIPE, cuda_graph=True))
    task = Classification(load_data(f"npz:{colours}"), None, 0.0, 0)
    with pytest.raises(InputError, match="at least two batches of 40 images, found 60"):
        task.networks(create_model("tiny:Tiny"), dataclasses.replace(RECIPE, batch_size=40))


def test_recording_leaves_statistics_and_the_forward_pass_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    model = create_model("resnet20").train()
    state, x = {name: value.clone() for name, value in model.state_dict().items()}, torch.randn(4, 3, 32, 32)

    def record(network: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        network(*inputs)  # as PyTorch does before it records
        network.forward = lambda x: x  # as PyTorch does after it

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", record)
    record_(model, x)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert model(x) is x
    forget_(model)
    assert model(x).shape == (4, 10)


class DecodedByWorkers(Dataset[Batch]):
    """Images that worker processes alone may ask for."""

    def __init__(self, images: MemoryImages) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Batch:
        assert get_worker_info() is not None, "decoded in the process that trains"
        return self.images[index]


def test_every_image_of_a_training_is_decoded_by_the_workers(colours: Path) -> None:
    data = load_data(f"npz:{colours}", hold_out=0.2)
    parts = {name: DecodedByWorkers(getattr(data, name)) for name in ("train", "val")}
    recipe, teacher = dataclasses.replace(RECIPE, epochs=1), Teacher(create_model("tiny:Tiny"), hints=True)
    model, workers = create_model("tiny:Tiny"), RunOptions(workers=1)
    (epoch,) = train(model, dataclasses.replace(data, **parts), recipe, teacher=teacher, options=workers)
    assert epoch.val_top1 is not None


def test_a_device_that_is_not_there_is_refused_and_not_replaced_by_another(
    colours: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    trained(colours, dataclasses.replace(RECIPE, epochs=1), device="cpu")
    with pytest.raises(InputError, match=r"^device is 'cuda': expected one that is there, such as \w+$"):
        trained(colours, device="cuda")
    for unknown in ("tpu", "cuda:1", "meta"):
        with pytest.raises(InputError, match=f"device is '{unknown}': expected cpu or cuda"):
            trained(colours, device=unknown)


def test_each_training_runs_on_the_device_that_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine with a GPU: so long as nothing is computed, none is needed."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for device in ("cpu", "cuda", "cpu"):
        with accelerator_on(device) as accelerator:
            assert accelerator.device.type == device
        assert not is_initialized()


def test_a_device_that_other_code_of_the_process_chose_for_accelerate_is_left_to_it(
    colours: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    try:
        others = PartialState()
        assert others.device.type == "cuda"
        with pytest.raises(InputError, match="device is 'cpu', but this process has set up accelerate on cuda"):
            trained(colours, device="cpu")
        with accelerator_on("cuda"):
            pass
        assert others.device.type == "cuda"
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


def test_a_training_leaves_the_random_state_as_it_was(colours: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = create_model("tiny:Tiny"), load_data(f"npz:{colours}")
    before = torch.get_rng_state()
    train(model, data, RECIPE)
    assert torch.equal(torch.get_rng_state(), before)
    # Nor does one on the CPU seed a GPU.
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("a GPU was seeded"))
    train(model, data, RECIPE)


def test_what_was_recorded_is_forgotten_and_pytorch_warns_again(monkeypatch: pytest.MonkeyPatch) -> None:
    warns: list[bool] = []
    monkeypatch.setattr(torch.autograd.graph, "set_warn_on_accumulate_grad_stream_mismatch", warns.append)
    model = create_model("tiny:Tiny")
    with recording([model]):
        model.forward = lambda x: x  # as PyTorch does after it has recorded
    assert warns == [False, True]
    assert "forward" not in model.__dict__
