"""Refine a block's weights on the outputs that it should give; no labels."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ghostify.measure.environment import computes_in_bf16
from ghostify.modes import evaluating

# From the first prototypes; not swept yet. A high learning rate is known to spoil a good start.
STEPS, BATCH_SIZE, LEARNING_RATE = 300, 64, 1e-3


def refine_(
    block: nn.Module,
    inputs: Sequence[Tensor],
    targets: Sequence[Tensor],
    generator: torch.Generator,
    *,
    steps: int = STEPS,
    batch_size: int = BATCH_SIZE,
    lr: float = LEARNING_RATE,
) -> None:
    """Train all weights of a block on mean squared error, BatchNorm statistics held (Adam, cosine).

    Forward and backward in bf16 where the processor computes in it: its rounding is far below the errors that a
    refinement is for.

    Args:
        block: Changed in place.
        inputs: Batches of what it gets.
        targets: Batches of what it should give.
        generator: Of the order of the images; on the CPU.
    """
    images = [(batch, row) for batch, x in enumerate(inputs) for row in range(len(x))]
    scale = 1 / torch.stack([target.var() for target in targets]).mean().clamp_min(1e-12)
    parameters = [p for p in block.parameters() if p.is_floating_point()]
    learning = [p.requires_grad for p in parameters]
    for parameter in parameters:
        parameter.requires_grad_(True)
    fast = computes_in_bf16(parameters[0].device)
    optimizer = torch.optim.Adam(parameters, lr=lr)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / steps)))
    try:
        with evaluating(block), torch.enable_grad():
            for _ in range(steps):
                drawn = torch.randint(len(images), (batch_size,), generator=generator).tolist()
                x, target = (
                    torch.stack([part[images[i][0]][images[i][1]] for i in drawn]) for part in (inputs, targets)
                )
                with torch.autocast(x.device.type, torch.bfloat16, enabled=fast):
                    output = block(x)
                loss = scale * nn.functional.mse_loss(output.float(), target)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                scheduler.step()
    finally:
        for parameter, learns in zip(parameters, learning, strict=True):
            parameter.requires_grad_(learns)
            parameter.grad = None
