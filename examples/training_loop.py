"""A ghost learns from its original, in a training loop of your own: --loop plain, lightning or transformers."""

import argparse

import small_net
import torch

import ghostify


def plain(loss_of, train, epochs):
    optimizer = torch.optim.AdamW(loss_of.model.parameters(), lr=1e-3)
    for _ in range(epochs):
        for images, _labels in train:  # a loss by labels may be added, from the scores
            loss, _scores = loss_of(images)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def lightning(loss_of, train, epochs):
    from lightning import LightningModule, Trainer

    class Tuning(LightningModule):
        def training_step(self, batch, index):
            return self.loss_of(batch[0]).loss

        def configure_optimizers(self):
            return torch.optim.AdamW(self.loss_of.model.parameters(), lr=1e-3)

    tuning = Tuning()
    tuning.loss_of = loss_of
    Trainer(max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False).fit(tuning, train)


def transformers(loss_of, train, epochs):
    from transformers import Trainer, TrainingArguments

    class Tuning(Trainer):
        def compute_loss(self, model, inputs, **_):
            return model(inputs["pixel_values"]).loss

    arguments = TrainingArguments("tuning", num_train_epochs=epochs, learning_rate=1e-3, remove_unused_columns=False)
    Tuning(loss_of, arguments, train_dataset=[{"pixel_values": image} for image, _ in train.dataset]).train()


LOOPS = {"plain": plain, "lightning": lightning, "transformers": transformers}
parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--loop", choices=LOOPS, default="plain")
learn = LOOPS[parser.parse_args().loop]
train, test = small_net.digits()
original = small_net.trained(train, epochs=5)
inputs = [images for images, _ in train]
ghost = ghostify.convert(original, ratio=2).model  # half of the maps by new filters; calibration=inputs would fit them
print(f"right: original {small_net.accuracy(original, test):.1f} %,", end=" ")
print(f"ghost {small_net.accuracy(ghost.eval(), test):.1f} %,", end=" ")
learn(ghostify.hints(original, ghost, inputs).train(), train, epochs=5)  # the parameters that learn are the ghost's
print(f"when it has learnt {small_net.accuracy(ghost.eval(), test):.1f} %")
ghostify.save(ghost, "ghost.safetensors")
