"""Random networks of the building blocks that people's networks have, each built again by its seed."""

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

SIDES = (23, 24, 25, 27, 28, 31, 32)  # pixels of an image, whose maps may be halved three times
WIDTHS = (8, 10, 12, 16)  # channels between blocks; one that is odd cannot be split
MOST_BLOCKS = 4

Rng = random.Random
Block = Callable[[Rng, int, int], nn.Module]  # of input and output channels


def factory(seed: int, blocks: Sequence[str] | None = None, head: str | None = None, around: str | None = None) -> Any:
    """The network of a seed, the same each time; random numbers elsewhere are not touched.

    Args:
        blocks: Names of its blocks, instead of those that the seed draws.
        head: Name of its head, likewise.
        around: Name of what is done to the whole, likewise.
    """
    drawn = drawn_parts(seed)
    blocks = drawn[0] if blocks is None else blocks
    head, around = head or drawn[1], around or drawn[2]
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        rng = Rng(seed)
        widths = [rng.choice(WIDTHS) for _ in range(len(blocks) + 1)]
        stem = nn.Sequential(nn.Conv2d(3, widths[0], 3, padding=1), nn.BatchNorm2d(widths[0]), nn.ReLU())
        parts = [
            BLOCKS[name](Rng(f"{seed} {name}"), before, after)
            for name, before, after in zip(blocks, widths, widths[1:], strict=False)
        ]
        model = Network(stem, parts, HEADS[head](Rng(f"{seed} {head}"), widths[-1]))
        learnt_(model)
        return AROUND[around](model.eval())


def drawn_parts(seed: int) -> tuple[list[str], str, str]:
    """Names of the blocks, the head, and what is done to the whole, of a seed."""
    rng = Rng(f"parts of {seed}")
    blocks = rng.sample(sorted(BLOCKS), rng.randint(1, MOST_BLOCKS))
    return blocks, rng.choice(sorted(HEADS)), rng.choice([*sorted(AROUND), *["nothing"] * 2 * len(AROUND)])


def images(seed: int, number: int, *, larger: int = 0) -> Tensor:
    """Images ``[number, 3, height, width]`` for the network of a seed; not square for some."""
    rng = Rng(f"images of {seed}")
    height, width = rng.choice(SIDES), rng.choice(SIDES)
    if rng.random() < 0.5:
        width = height
    drawn = torch.Generator().manual_seed(seed)
    return torch.rand(number, 3, height + larger, width + larger, generator=drawn)


@torch.no_grad()
def learnt_(model: nn.Module) -> None:
    """Norms as after training."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.get_buffer("running_mean"), std=0.3)
            nn.init.uniform_(module.get_buffer("running_var"), 0.5, 2)
            if module.affine:
                nn.init.normal_(module.weight, 1, 0.3)
                nn.init.normal_(module.bias, std=0.3)


class Network(nn.Module):
    """A stem, blocks and a head."""

    def __init__(self, stem: nn.Module, blocks: Sequence[nn.Module], head: nn.Module) -> None:
        super().__init__()
        self.stem, self.blocks, self.head = stem, nn.Sequential(*blocks), head

    def forward(self, x: Tensor) -> Any:
        return self.head(self.blocks(self.stem(x)))


def activation(rng: Rng) -> nn.Module:
    kinds: list[Callable[[], nn.Module]] = [
        nn.ReLU,
        partial(nn.ReLU, inplace=True),
        partial(nn.ReLU6, inplace=True),
        nn.SiLU,
        partial(nn.Hardswish, inplace=True),
        partial(nn.LeakyReLU, 0.1, inplace=True),
        nn.PReLU,
        nn.GELU,
        nn.Identity,
    ]
    return rng.choice(kinds)()


def norm(rng: Rng, channels: int) -> nn.Module:
    kinds: list[Callable[[], nn.Module]] = [
        partial(nn.BatchNorm2d, channels),
        partial(nn.BatchNorm2d, channels),
        partial(nn.BatchNorm2d, channels, affine=False),
        partial(nn.GroupNorm, 2, channels),
        nn.Identity,
        nn.Identity,
    ]
    return rng.choice(kinds)()


def conv(rng: Rng, inputs: int, outputs: int, **options: Any) -> nn.Sequential:
    """A convolution that keeps the maps' size, a norm and an activation, drawn among many."""
    size, dilation = rng.choice([1, 3, 3, 3, 5]), rng.choice([1, 1, 1, 2])
    padding: Any = rng.choice([dilation * (size // 2), dilation * (size // 2), "same"])
    mode = rng.choice(["zeros", "zeros", "zeros", "reflect", "circular", "replicate"])
    drawn = {"padding": padding, "dilation": dilation, "padding_mode": mode, "bias": rng.random() < 0.5} | options
    return nn.Sequential(nn.Conv2d(inputs, outputs, size, **drawn), norm(rng, outputs), activation(rng))


class Calls(nn.Module):
    """Calls a function with its parts, by name, and an input: a block in few lines."""

    def __init__(self, forward: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.called, self.part_names = forward, tuple(parts)
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Any:
        return self.called(x, *(getattr(self, name) for name in self.part_names))


# Blocks: name → builder. Each keeps the maps' size or about halves it.
BLOCKS: dict[str, Block] = {}


def block(build: Block) -> Block:
    BLOCKS[build.__name__] = build
    return build


@block
def plain(rng: Rng, a: int, b: int) -> nn.Module:
    return conv(rng, a, b)


@block
def strided(rng: Rng, a: int, b: int) -> nn.Module:
    size = rng.choice([1, 2, 3, 5])
    first = nn.Conv2d(a, b, size, stride=rng.choice([2, (1, 2), (2, 1)]), padding=size // 2)
    return nn.Sequential(first, norm(rng, b), activation(rng), conv(rng, b, b))


@block
def oblong(rng: Rng, a: int, b: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(a, b, (1, 5), padding=(0, 2)), nn.Conv2d(b, b, (3, 1), padding=(1, 0)), nn.ReLU())


@block
def residual(rng: Rng, a: int, b: int) -> nn.Module:
    def summed(x: Tensor, first: nn.Module, second: nn.Module, shortcut: nn.Module) -> Tensor:
        return F.relu(second(first(x)) + shortcut(x))

    return Calls(summed, first=conv(rng, a, b), second=conv(rng, b, b), shortcut=nn.Conv2d(a, b, 1))


@block
def residual_in_place(rng: Rng, a: int, b: int) -> nn.Module:
    def summed(x: Tensor, widen: nn.Module, body: nn.Module) -> Tensor:
        x = widen(x)
        y = body(x)
        y += x
        return y.relu_()

    return Calls(summed, widen=conv(rng, a, b), body=nn.Sequential(conv(rng, b, b), conv(rng, b, b)))


@block
def branches(rng: Rng, a: int, b: int) -> nn.Module:
    def joined(x: Tensor, ways: nn.ModuleList, last: nn.Module) -> Tensor:
        return last(torch.cat([way(x) for way in ways], 1))

    widths = [2 * rng.randint(2, 6) for _ in range(rng.randint(2, 3))]
    return Calls(joined, ways=nn.ModuleList(conv(rng, a, w) for w in widths), last=conv(rng, sum(widths), b))


@block
def dense(rng: Rng, a: int, b: int) -> nn.Module:
    def grown(x: Tensor, layers: nn.ModuleList, last: nn.Module) -> Tensor:
        found = [x]
        for layer in layers:
            found.append(layer(torch.cat(found, dim=1)))
        return last(torch.cat(found, dim=-3))

    layers = nn.ModuleList(conv(rng, a + 8 * i, 8) for i in range(3))
    return Calls(grown, layers=layers, last=conv(rng, a + 24, b))


@block
def chunks(rng: Rng, a: int, b: int) -> nn.Module:
    def halves(x: Tensor, first: nn.Module, inner: nn.Module, last: nn.Module) -> Tensor:
        one, other = first(x).chunk(2, 1)
        return last(torch.cat((one, inner(other)), 1))

    return Calls(halves, first=conv(rng, a, 16), inner=conv(rng, 8, 8), last=conv(rng, 16, b))


@block
def uneven_split(rng: Rng, a: int, b: int) -> nn.Module:
    def parts(x: Tensor, first: nn.Module, inner: nn.Module, last: nn.Module) -> Tensor:
        one, two, three = first(x).split([4, 6, 10], 1)
        return last(torch.cat((three, one, inner(two)), 1))

    return Calls(parts, first=conv(rng, a, 20), inner=conv(rng, 6, 8), last=conv(rng, 22, b))


@block
def shuffled(rng: Rng, a: int, b: int) -> nn.Module:
    """ShuffleNetV2's unit: half of the maps pass, the others go through, then all change places."""

    def unit(x: Tensor, widen: nn.Module, inner: nn.Module, last: nn.Module) -> Tensor:
        one, other = widen(x).chunk(2, 1)
        n, c, h, w = x.shape[0], 16, *x.shape[2:]
        y = torch.cat((one, inner(other)), 1)
        return last(y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w))

    inner = nn.Sequential(conv(rng, 8, 12), nn.Conv2d(12, 12, 3, padding=1, groups=12), conv(rng, 12, 8))
    return Calls(unit, widen=conv(rng, a, 16), inner=inner, last=conv(rng, 16, b))


@block
def channel_shuffle(rng: Rng, a: int, b: int) -> nn.Module:
    grouped = nn.Conv2d(12, 12, 3, padding=1, groups=rng.choice([2, 3]))
    return nn.Sequential(conv(rng, a, 12), nn.ChannelShuffle(3), grouped, nn.ReLU(inplace=True), conv(rng, 12, b))


@block
def separable(rng: Rng, a: int, b: int) -> nn.Module:
    wide = nn.Conv2d(16, 16 * rng.choice([1, 2]), 3, padding=1, groups=16, bias=False)
    return nn.Sequential(conv(rng, a, 16), wide, nn.BatchNorm2d(wide.out_channels), nn.Conv2d(wide.out_channels, b, 1))


@block
def squeeze_excite(rng: Rng, a: int, b: int) -> nn.Module:
    def gated(x: Tensor, body: nn.Module, gate: nn.Module) -> Tensor:
        y = body(x)
        return y * gate(y)

    pool = rng.choice([nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(1)])
    gate = nn.Sequential(pool, nn.Conv2d(b, 8, 1), nn.ReLU(inplace=True), nn.Conv2d(8, b, 1), nn.Sigmoid())
    return Calls(gated, body=conv(rng, a, b), gate=gate)


@block
def linear_gate(rng: Rng, a: int, b: int) -> nn.Module:
    def gated(x: Tensor, body: nn.Module, gate: nn.Module, last: nn.Module) -> Tensor:
        y = body(x)
        return last(y.mul_(gate(y.mean((2, 3)))[:, :, None, None]))

    gate = nn.Sequential(nn.Linear(14, 7), nn.ReLU(), nn.Linear(7, 14), nn.Hardsigmoid())
    return Calls(gated, body=conv(rng, a, 14), gate=gate, last=conv(rng, 14, b))


@block
def spatial_gate(rng: Rng, a: int, b: int) -> nn.Module:
    def gated(x: Tensor, body: nn.Module, gate: nn.Module) -> Tensor:
        y = body(x)
        seen = torch.stack((y.mean(1), y.amax(1)), 1)
        return y * gate(seen).sigmoid()

    return Calls(gated, body=conv(rng, a, b), gate=nn.Conv2d(2, 1, 3, padding=1))


@block
def attention(rng: Rng, a: int, b: int) -> nn.Module:
    def attended(x: Tensor, q: nn.Module, k: nn.Module, v: nn.Module, last: nn.Module) -> Tensor:
        x = F.adaptive_avg_pool2d(x, 6)
        mixed = F.scaled_dot_product_attention(*(one(x).flatten(2).transpose(1, 2) for one in (q, k, v)))
        return last(mixed.transpose(1, 2).unflatten(2, (6, 6)))

    return Calls(attended, **{name: nn.Conv2d(a, 16, 1) for name in "qkv"}, last=conv(rng, 16, b))


@block
def shared_twice(rng: Rng, a: int, b: int) -> nn.Module:
    def twice(x: Tensor, widen: nn.Module, body: nn.Module) -> Tensor:
        return body(body(widen(x)))

    return Calls(twice, widen=conv(rng, a, b), body=conv(rng, b, b))


@block
def two_names(rng: Rng, a: int, b: int) -> nn.Module:
    body = nn.Conv2d(b, b, 3, padding=1)
    return nn.Sequential(conv(rng, a, b), body, nn.ReLU(), body)


@block
def tied_weights(rng: Rng, a: int, b: int) -> nn.Module:
    first, second = (nn.Conv2d(b, b, 3, padding=1) for _ in range(2))
    second.weight = first.weight
    return nn.Sequential(conv(rng, a, b), first, nn.ReLU(), second)


@block
def pixel_shuffle(rng: Rng, a: int, b: int) -> nn.Module:
    wide = nn.Conv2d(a, 4 * 8, 3, padding=1)
    return nn.Sequential(wide, nn.PixelShuffle(2), activation(rng), nn.AvgPool2d(2), conv(rng, 8, b))


@block
def space_to_depth(rng: Rng, a: int, b: int) -> nn.Module:
    def packed(x: Tensor, first: nn.Module, last: nn.Module) -> Tensor:
        y = F.pad(first(x), (0, x.shape[3] % 2, 0, x.shape[2] % 2))
        return last(torch.cat([y[..., ::2, ::2], y[..., 1::2, ::2], y[..., ::2, 1::2], y[..., 1::2, 1::2]], 1))

    return Calls(packed, first=conv(rng, a, 8), last=conv(rng, 32, b))


@block
def transposed(rng: Rng, a: int, b: int) -> nn.Module:
    up = nn.ConvTranspose2d(12, 12, rng.choice([2, 4]), stride=2, groups=rng.choice([1, 2]))
    return nn.Sequential(conv(rng, a, 12), up, activation(rng), nn.MaxPool2d(2), conv(rng, 12, b))


@block
def down_and_up(rng: Rng, a: int, b: int) -> nn.Module:
    mode = rng.choice(["nearest", "bilinear"])

    def unet(x: Tensor, down: nn.Module, low: nn.Module, last: nn.Module) -> Tensor:
        high = down(x)
        up = F.interpolate(low(F.max_pool2d(high, 2)), size=high.shape[2:], mode=mode)
        return last(torch.cat((high, up), 1))

    return Calls(unet, down=conv(rng, a, 12), low=conv(rng, 12, 12), last=conv(rng, 24, b))


@block
def upsampled(rng: Rng, a: int, b: int) -> nn.Module:
    up = nn.Upsample(scale_factor=2, mode=rng.choice(["nearest", "bilinear"]))
    return nn.Sequential(conv(rng, a, 12), up, conv(rng, 12, 12), nn.AvgPool2d(2), conv(rng, 12, b))


@block
def pool_by_own_size(rng: Rng, a: int, b: int) -> nn.Module:
    def gated(x: Tensor, body: nn.Module, gate: nn.Module) -> Tensor:
        y = body(x)
        return y * gate(F.avg_pool2d(y, (y.size(2), y.size(3)))).sigmoid()

    return Calls(gated, body=conv(rng, a, b), gate=nn.Conv2d(b, b, 1))


@block
def pyramid_pool(rng: Rng, a: int, b: int) -> nn.Module:
    def pooled(x: Tensor, ways: nn.ModuleList, last: nn.Module) -> Tensor:
        up = [F.interpolate(way(x), size=x.shape[-2:], mode="bilinear", align_corners=False) for way in ways]
        return last(torch.cat([x, *up], 1))

    ways = nn.ModuleList(nn.Sequential(nn.AdaptiveAvgPool2d(size), nn.Conv2d(a, 8, 1)) for size in (1, 2, 3))
    return Calls(pooled, ways=ways, last=conv(rng, a + 24, b))


class Steps(nn.Module):
    """Layers and functions in a list of tuples."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(a, b, 3, padding=1), nn.Conv2d(b, b, 3, padding=1)
        self.steps = [(self.c1, F.relu), (self.c2, torch.tanh)]

    def forward(self, x: Tensor) -> Tensor:
        for layer, function in self.steps:
            x = function(layer(x))
        return x


@block
def steps_in_tuples(rng: Rng, a: int, b: int) -> nn.Module:
    return Steps(a, b)


class Kept(nn.Module):
    """Layers that a dict, a function and a method's closure keep, beside their names."""

    def __init__(self, a: int, b: int, how: str) -> None:
        super().__init__()
        self.inner = nn.Conv2d(a, b, 3, padding=1)
        self.last = nn.Conv2d(b, b, 3, padding=1)
        if how == "partial":
            self.run: Any = {"run": partial(apply_to, self.inner)}["run"]
        elif how == "method":
            self.run = self.inner.forward
        elif how == "dict":
            self.kept = {"deep": [{"layer": self.inner}]}
            self.run = None
        else:
            inner = self.inner
            self.run = lambda x: inner(x)

    def forward(self, x: Tensor) -> Tensor:
        y = self.kept["deep"][0]["layer"](x) if self.run is None else self.run(x)
        return self.last(torch.relu(y))


def apply_to(layer: nn.Module, x: Tensor) -> Any:
    return layer(x)


@block
def kept_otherwise(rng: Rng, a: int, b: int) -> nn.Module:
    return Kept(a, b, rng.choice(["partial", "method", "dict", "lambda"]))


class Graph(nn.Module):
    """Layers that say themselves what they take, as YOLO's do."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.Conv2d(b, b, 3, padding=1), nn.SiLU())
        for index, layer in enumerate(self.model):
            layer.i, layer.f, layer.type = index, -1 if index else 0, type(layer).__name__

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.model:
            if layer.f == -1 or layer.i == 0:
                x = layer(x)
        return x


@block
def attributes_read(rng: Rng, a: int, b: int) -> nn.Module:
    return Graph(a, b)


@block
def weights_read(rng: Rng, a: int, b: int) -> nn.Module:
    def scaled(x: Tensor, layer: nn.Conv2d, last: nn.Module) -> Tensor:
        return last(layer(x) / (1 + layer.weight.abs().mean()) + layer.out_channels / 100)

    return Calls(scaled, layer=nn.Conv2d(a, b, 3, padding=1), last=conv(rng, b, b))


def pads(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (F.pad(args[0], (0, 2, 0, 2)),)


def halves(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output * 0.5 + 0.1


@block
def hooks(rng: Rng, a: int, b: int) -> nn.Module:
    layers = nn.Sequential(nn.Conv2d(a, b, 3), nn.ReLU(), nn.Conv2d(b, b, 3, padding=1))
    layers[0].register_forward_pre_hook(pads)
    layers[rng.choice([0, 1, 2])].register_forward_hook(halves)
    return layers


class SameConv2d(nn.Conv2d):
    """TensorFlow's SAME padding, as EfficientNet packages have it."""

    def forward(self, x: Tensor) -> Tensor:
        sides: list[int] = []
        for axis in (1, 0):
            size, stride, kernel = x.shape[2 + axis], self.stride[axis], self.kernel_size[axis]
            total = max((-(-size // stride) - 1) * stride + (kernel - 1) * self.dilation[axis] + 1 - size, 0)
            sides += [total // 2, total - total // 2]
        return F.conv2d(F.pad(x, sides), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class StandardConv2d(nn.Conv2d):
    """Weight-standardised (Qiao et al. 2019)."""

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(self.weight, (1, 2, 3), keepdim=True)
        return F.conv2d(x, (self.weight - mean) / (variance + 1e-5).sqrt(), self.bias, self.stride, self.padding)


class SetConv2d(nn.Conv2d):
    """Its constructor touches its weights."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.weight.data = torch.randn_like(self.weight) * 0.1


@block
def subclasses(rng: Rng, a: int, b: int) -> nn.Module:
    kinds: list[Any] = [partial(SameConv2d, stride=rng.choice([1, 2]))]
    kinds += [partial(StandardConv2d, padding=1), partial(SetConv2d, padding=1)]
    return nn.Sequential(rng.choice(kinds)(a, b, 3), norm(rng, b), activation(rng), conv(rng, b, b))


@block
def slices_written(rng: Rng, a: int, b: int) -> nn.Module:
    def written(x: Tensor, first: nn.Module, last: nn.Module) -> Tensor:
        y = first(x).clone()
        y[:, :3] = y[:, :3] * 2 - 0.5
        y[..., 1:] = y[..., 1:].sigmoid()
        return last(y)

    return Calls(written, first=conv(rng, a, 12), last=conv(rng, 12, b))


@block
def slices_read(rng: Rng, a: int, b: int) -> nn.Module:
    def read(x: Tensor, first: nn.Module, last: nn.Module) -> Tensor:
        y = first(x)
        return last(torch.cat((y[:, 1::2], y[:, :5].flip(1), y[:, [0, 3]]), 1))

    return Calls(read, first=conv(rng, a, 12), last=conv(rng, 13, b))


@block
def autocast(rng: Rng, a: int, b: int) -> nn.Module:
    def narrow(x: Tensor, first: nn.Module, last: nn.Module) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = first(x)
        return last(y.to(x.dtype))

    return Calls(narrow, first=conv(rng, a, b), last=conv(rng, b, b))


@block
def without_gradients(rng: Rng, a: int, b: int) -> nn.Module:
    mode = rng.choice([torch.no_grad, torch.inference_mode])

    def frozen(x: Tensor, first: nn.Module, last: nn.Module) -> Tensor:
        with mode():
            y = first(x)
        return last(y)

    return Calls(frozen, first=conv(rng, a, b), last=conv(rng, b, b))


@block
def gated_units(rng: Rng, a: int, b: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(a, 24, 3, padding=1), nn.GLU(1), nn.PReLU(12), conv(rng, 12, b))


@block
def maxout(rng: Rng, a: int, b: int) -> nn.Module:
    def larger(x: Tensor, one: nn.Module, other: nn.Module, last: nn.Module) -> Tensor:
        return last(torch.maximum(one(x), other(x)) * 0.5 + torch.stack((one(x), x[:, :1] + other(x))).mean(0))

    return Calls(larger, one=conv(rng, a, 12), other=conv(rng, a, 12), last=conv(rng, 12, b))


@block
def masked(rng: Rng, a: int, b: int) -> nn.Module:
    layers = nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.Conv2d(b, b, 3, padding=1))
    prune.l1_unstructured(layers[rng.choice([0, 2])], "weight", 0.5)
    return layers


@block
def parametrised(rng: Rng, a: int, b: int) -> nn.Module:
    layers = nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.Conv2d(b, b, 3, padding=1))
    rng.choice([weight_norm, spectral_norm])(layers[rng.choice([0, 2])])
    return layers


@block
def frozen(rng: Rng, a: int, b: int) -> nn.Module:
    return conv(rng, a, b).requires_grad_(False)


@block
def buffers(rng: Rng, a: int, b: int) -> nn.Module:
    class_of = Scaled if rng.random() < 0.5 else Written
    return nn.Sequential(conv(rng, a, 12), class_of(12), conv(rng, 12, b))


class Scaled(nn.Module):
    """A buffer with a number for each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.rand(channels, 1, 1) + 0.5)
        self.gamma = nn.Parameter(torch.rand(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.gamma


class Written(nn.Module):
    """Code in which the number of channels is written out."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] == self.channels
        return x.reshape(len(x), self.channels, *x.shape[2:])


@block
def channels_last_norm(rng: Rng, a: int, b: int) -> nn.Module:
    def normed(x: Tensor, first: nn.Module, layer_norm: nn.Module, wide: nn.Module, narrow: nn.Module) -> Tensor:
        y = layer_norm(first(x).permute(0, 2, 3, 1))
        return narrow(F.gelu(wide(y))).permute(0, 3, 1, 2)

    parts = {"layer_norm": nn.LayerNorm(b), "wide": nn.Linear(b, 2 * b), "narrow": nn.Linear(2 * b, b)}
    return Calls(normed, first=nn.Conv2d(a, b, 3, padding=1), **parts)


class Two(nn.Module):
    """An input among keywords, and two outputs."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(a, b, 3, padding=1), nn.Conv2d(a, b, 1)

    def forward(self, *, maps: Tensor, scale: float = 1.0) -> dict[str, Tensor]:
        return {"left": self.left(maps) * scale, "right": self.right(maps)}


@block
def one_of_two(rng: Rng, a: int, b: int) -> nn.Module:
    def chosen(x: Tensor, two: nn.Module, last: nn.Module) -> Tensor:
        return last(two(maps=x, scale=0.5)["left"])

    return Calls(chosen, two=Two(a, b), last=conv(rng, b, b))


@block
def by_values(rng: Rng, a: int, b: int) -> nn.Module:
    def chosen(x: Tensor, first: nn.Module, last: nn.Module) -> Tensor:
        y = first(x)
        return last(y if float(y.detach().abs().sum()) > 0 else -y)

    return Calls(chosen, first=conv(rng, a, b), last=conv(rng, b, b))


@block
def dropout(rng: Rng, a: int, b: int) -> nn.Module:
    return nn.Sequential(
        conv(rng, a, b), rng.choice([nn.Dropout(0.3), nn.Dropout2d(0.3, inplace=True)]), conv(rng, b, b)
    )


# Heads: name → builder of what comes behind the last maps.
HEADS: dict[str, Callable[[Rng, int], nn.Module]] = {}


def head(build: Callable[[Rng, int], nn.Module]) -> Callable[[Rng, int], nn.Module]:
    HEADS[build.__name__] = build
    return build


@head
def classifier(rng: Rng, a: int) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(a, 7))


@head
def flattened(rng: Rng, a: int) -> nn.Module:
    last = nn.Linear(8 * 4, 5)
    return nn.Sequential(nn.Conv2d(a, 8, 1), nn.AdaptiveMaxPool2d(2), nn.Flatten(1), nn.ReLU(inplace=True), last)


@head
def convolved(rng: Rng, a: int) -> nn.Module:
    def mean(x: Tensor, body: nn.Module, last: nn.Module) -> Tensor:
        return last(body(x).mean((2, 3), keepdim=True)).flatten(1)

    return Calls(mean, body=conv(rng, a, 16), last=nn.Conv2d(16, 6, 1))


@head
def maps_out(rng: Rng, a: int) -> nn.Module:
    return nn.Sequential(conv(rng, a, 12), nn.Conv2d(12, 10, 3, padding=1))


@head
def pair(rng: Rng, a: int) -> nn.Module:
    def two(x: Tensor, body: nn.Module, logits: nn.Module, maps: nn.Module) -> tuple[Tensor, Tensor]:
        y = body(x)
        return logits(y.mean((2, 3))), maps(y)

    return Calls(two, body=conv(rng, a, 12), logits=nn.Linear(12, 4), maps=nn.Conv2d(12, 8, 1))


@head
def named(rng: Rng, a: int) -> nn.Module:
    def two(x: Tensor, body: nn.Module, maps: nn.Module) -> dict[str, Any]:
        y = body(x)
        return {"out": maps(y), "features": [y, y.mean((2, 3))]}

    return Calls(two, body=conv(rng, a, 12), maps=nn.Conv2d(12, 8, 1))


@head
def boxes(rng: Rng, a: int) -> nn.Module:
    """YOLO's: a view with the anchors apart, permuted, and its parts computed by themselves."""

    def decoded(x: Tensor, last: nn.Module) -> Tensor:
        t = last(x)
        n, _, h, w = t.shape
        y = t.view(n, 2, 8, h, w).permute(0, 1, 3, 4, 2).sigmoid()
        return torch.cat([y[..., :2] * 2 - 0.5, (y[..., 2:4] * 2) ** 2, y[..., 4:]], -1).reshape(n, -1, 8)

    return Calls(decoded, last=nn.Sequential(conv(rng, a, 12), nn.Conv2d(12, 16, 1)))


@head
def sequence(rng: Rng, a: int) -> nn.Module:
    def read(x: Tensor, body: nn.Module, recurrent: nn.Module, last: nn.Module) -> Tensor:
        columns = body(x).mean(2).transpose(1, 2)
        return last(recurrent(columns)[0])

    return Calls(read, body=conv(rng, a, 12), recurrent=nn.LSTM(12, 6, batch_first=True), last=nn.Linear(6, 5))


# What is done to the whole.


def half_training(model: Network) -> Network:
    model.stem.train()
    return model


AROUND: dict[str, Callable[[Network], Any]] = {
    "nothing": lambda model: model,
    "DataParallel": nn.DataParallel,
    "float64": lambda model: model.double(),
    "channels last": lambda model: model.to(memory_format=torch.channels_last),
    "training": lambda model: model.train(),
    "half in training": half_training,
    "frozen": lambda model: model.requires_grad_(False),
}
