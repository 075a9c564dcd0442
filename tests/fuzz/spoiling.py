"""Ways to spoil an input at random: each changes a good file, folder or command line, and says how."""

import io
import json
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

Spoil = Callable[[Random, Path], str]
# A module that leaves a file where it is imported or called, and that nothing may import on a file's word.
CANARY = "canary"


# Any file.


def cut(rng: Random, path: Path) -> str:
    content = path.read_bytes()
    length = rng.choice([rng.randrange(min(16, len(content))), rng.randrange(len(content)), len(content) - 1])
    path.write_bytes(content[:length])
    return f"cut after {length} of {len(content)} bytes"


def emptied(rng: Random, path: Path) -> str:
    path.write_bytes(b"")
    return "empty"


def flipped(rng: Random, path: Path) -> str:
    """Bits turned, most often near the beginning, where a file says what it is."""
    content = bytearray(path.read_bytes())
    within = rng.choice([8, 64, 400, len(content)])
    places = [rng.randrange(min(within, len(content))) for _ in range(rng.choice([1, 1, 4, 30]))]
    for place in places:
        content[place] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    return f"bits flipped in the bytes {sorted(places)}"


def zeroed(rng: Random, path: Path) -> str:
    content = bytearray(path.read_bytes())
    begin = rng.choice([0, rng.randrange(len(content))])
    length = min(len(content) - begin, rng.choice([1, 8, 100, 4096]))
    content[begin : begin + length] = bytes(length)
    path.write_bytes(content)
    return f"zeros in {length} bytes from {begin} on"


def other_bytes(rng: Random, path: Path) -> str:
    what = rng.choice(["noise", "zeros", "text", "json", "zip", "a PNG", "a pickle", "half a header"])
    archive, picture = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.txt", "text")
    Image.new("RGB", (9, 7)).save(picture, "png")
    content = {
        "noise": rng.randbytes(rng.choice([3, 9, 5000])),
        "zeros": bytes(rng.choice([1, 8, 9, 5000])),
        "text": "weights, züglich\n".encode() * 3,
        "json": b'{"format": "ghostify plan 2", "layers": {}}',
        "zip": archive.getvalue(),
        "a PNG": picture.getvalue(),
        "a pickle": pickle.dumps({"a": [1, 2]}, protocol=rng.choice([0, 2, 4])),
        "half a header": struct.pack("<Q", rng.choice([0, 2, 10**6, 2**63])) + b"{}",
    }
    path.write_bytes(content[what])
    return f"holds {what}"


def longer(rng: Random, path: Path) -> str:
    path.write_bytes(path.read_bytes() + rng.randbytes(rng.choice([1, 100])))
    return "bytes behind the end"


def folder_instead(rng: Random, path: Path) -> str:
    remove(path)
    path.mkdir()
    return "a folder"


def absent(rng: Random, path: Path) -> str:
    remove(path)
    return "absent"


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


BYTES: list[Spoil] = [cut, cut, emptied, flipped, zeroed, other_bytes, longer, folder_instead, absent]


# JSON, in plan files, notes and annotations.

ODD: list[Any] = [
    *(None, True, "x", "", "1", -1, 0, 0.5, 10**9, 10**30, -(10**9), float("nan"), float("inf"), 1e308),
    *([], {}, [[]], [1, 2], {"a": 1}, ["x"], "a\nb", "ü" * 400),
]


def places_in(value: Any) -> list[tuple[Any, Any]]:
    """Each container in a JSON value with each key or index of it."""
    keys: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value)))
    below = [place for key in keys if isinstance(value[key], dict | list) for place in places_in(value[key])]
    return [(value, key) for key in keys] + below


def changed_json(rng: Random, value: Any) -> str:
    """Change one or some places of a JSON value at random."""
    done = []
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        places = places_in(value)
        if not places:
            break
        inside, key = rng.choice(places)
        how = rng.choice(["removed", "renamed", "replaced", "replaced", "replaced", "doubled"])
        if how == "removed":
            del inside[key]
        elif how == "renamed" and isinstance(inside, dict):
            inside[f"{key}q"] = inside.pop(key)
        elif how == "doubled" and isinstance(inside, list):
            inside.append(inside[key])
        else:
            odd = rng.choice(ODD)
            how = f"replaced by {str(odd)[:20]!r}"
            inside[key] = json.loads(json.dumps(odd))
        done.append(f"{key!r} {how}")
    return "; ".join(done)


def as_json(change: Callable[[Random, Any], str]) -> Spoil:
    """A way to spoil a file of JSON by a change of its content."""

    def spoil(rng: Random, path: Path) -> str:
        content = json.loads(path.read_text())
        said = change(rng, content)
        path.write_text(json.dumps(content))
        return said

    return spoil


def deep_json(rng: Random, path: Path) -> str:
    depth, brackets = rng.choice([500, 100_000]), rng.choice(["[]", '{"a": ', '{"layers": '])
    path.write_text(brackets[0] * depth if brackets == "[]" else brackets * depth)
    return f"{depth} levels of {brackets}"


def other_json(rng: Random, path: Path) -> str:
    content = rng.choice(["[]", "{}", "null", "3", '"plan"', "{'a': 1}", "[1,", "{}{}", "NaN", "1" * 5000])
    path.write_bytes(content.encode(rng.choice(["utf-8", "utf-16", "utf-8-sig"])))
    return f"holds {content[:20]}"


# Weights.


def state_in(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return {name: tensor.clone() for name, tensor in load_file(path).items()}  # else mapped from the file
    found: dict[str, Tensor] = torch.load(path, weights_only=True)
    return found


def write_state(rng: Random, state: Any, path: Path) -> None:
    """Written as the ending says, or by torch.save where safetensors cannot."""
    try:
        if path.suffix == ".safetensors":
            save_file(state, path)
            return
    except Exception:  # noqa: BLE001  # what safetensors cannot write
        pass
    torch.save(state, path, _use_new_zipfile_serialization=rng.random() < 0.8)


def other_state(rng: Random, path: Path) -> str:
    """A state dict with a fault of its own."""
    state = state_in(path)
    names = [name for name, tensor in state.items() if tensor.is_floating_point()]
    name = rng.choice(names)
    tensor = state[name].float()
    faults: dict[str, Callable[[], Any]] = {
        "another network's": lambda: {f"layer.{n}": t for n, t in nn.Linear(3, 4).state_dict().items()},
        "a NaN": lambda: state | {name: tensor.clone().index_fill_(0, torch.tensor(0), float("nan"))},
        "infinite": lambda: state | {name: tensor.clone().fill_(float("inf"))},
        "too large for its type": lambda: state | {name: tensor.double() * 1e60 + 1e60},
        "missing": lambda: {n: t for n, t in state.items() if n != name},
        "half missing": lambda: {n: state[n] for n in names[: len(names) // 2]},
        "renamed": lambda: {(f"{n}q" if n == name else n): t for n, t in state.items()},
        "extra": lambda: state | {"more.weight": torch.zeros(2)},
        "other shape": lambda: state | {name: torch.zeros(*tensor.shape, 2)},
        "no dimension": lambda: state | {name: torch.zeros(())},
        "no number": lambda: state | {name: tensor[:0]},
        "transposed": lambda: state | {n: t.T.contiguous() for n, t in state.items() if t.ndim == 2},
        "whole numbers": lambda: state | {name: tensor.int()},
        "booleans": lambda: state | {name: tensor.bool()},
        "complex": lambda: state | {name: tensor.cfloat()},
        "sparse": lambda: state | {name: tensor.to_sparse()},
        "quantised": lambda: state | {name: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)},
        "meta": lambda: state | {name: tensor.to("meta")},
        "no tensors": lambda: dict.fromkeys(state, 1.5),
        "some text": lambda: state | {name: "weights"},
        "numbered": lambda: dict(enumerate(state.values())),
        "list": lambda: list(state.values()),
        "one tensor": lambda: tensor,
        "nothing": dict,
        "None": lambda: None,
        "number": lambda: 3,
        "deep": lambda: nested(state, 12),
    }
    what = rng.choice(list(faults))
    path.unlink()
    write_state(rng, faults[what](), path)
    return f"{what} ({name})"


def nested(value: Any, depth: int) -> Any:
    return {"state_dict": nested(value, depth - 1)} if depth else value


class RunsWhenOpened:
    """An object whose pickle leaves the canary's file where it is opened."""

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (CANARY, "w")


def with_objects(rng: Random, path: Path) -> str:
    """A pickle that holds more than tensors, one that would run code, or a network with its code."""
    state = state_in(path)
    what = rng.choice(["code beside", "code alone", "code among", "a network", "plain pickle", "old format", "program"])
    if what == "plain pickle":
        path.write_bytes(pickle.dumps({"a": RunsWhenOpened()}))
    elif what == "program":
        torch.jit.script(nn.Linear(2, 2)).save(path)
    else:
        contents: dict[str, Any] = {
            "code beside": {"state_dict": state, "args": RunsWhenOpened()},
            "code alone": RunsWhenOpened(),
            "code among": state | {"more": RunsWhenOpened()},
            "a network": nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()),
            "old format": {"state_dict": state, "args": RunsWhenOpened()},
        }
        torch.save(contents[what], path, _use_new_zipfile_serialization=what != "old format")
    return f"a pickle: {what}"


WEIGHTS: list[Spoil] = [*BYTES, *[other_state] * 12, *[with_objects] * 4]


# Plan files.


def other_layer(rng: Random, plan: Any) -> str:
    """A row of a layer changed, or one of another network's."""
    name = rng.choice(list(plan["layers"]))
    rows: list[Any] = [
        {"output": {"kind": "prune", "kept": rng.choice([0, -4, 10**9, 7]), "dropped": 3}},
        {"output": {"kind": "pointwise ghosts", "kept": 10**12, "ghosted": 10**12}},
        {"output": {"kind": "depthwise ghosts", "kept": 8, "ghosted": 8, "kernel_size": rng.choice([2, -3, 10**6])}},
        {"output": {"kind": rng.choice(["os.system", "", "Keep", 3])}},
        {"block": {"kind": "one convolution", "kept": 3}},
        *({"block": None}, {"output": None}, {"input": {"kind": "keep"}}, [], "keep", None),
    ]
    where = rng.choice([name, f"{name}.0", "layer9.conv", "", "head"])
    plan["layers"][where] = rng.choice(rows)
    if rng.random() < 0.5:
        plan.pop("network", None)
    return f"layer {where!r} is {plan['layers'][where]}"


def other_network(rng: Random, plan: Any) -> str:
    """Names of another network's layers."""
    for part in ("layers", "network"):
        plan[part] = {f"features.{name}": row for name, row in plan.get(part, {}).items()}
    return "another network's layers"


def changed_layers(rng: Random, plan: Any) -> str:
    if rng.random() < 0.5:
        plan.pop("network", None)
    return changed_json(rng, plan["layers"])


JSON: list[Spoil] = [*BYTES, deep_json, other_json]
PLANS: list[Spoil] = [
    *JSON,
    *[as_json(changed_json)] * 4,
    *[as_json(changed_layers)] * 6,
    *[as_json(other_layer)] * 5,
    as_json(other_network),
]


# Network files: safetensors with a note.


def parts_of(path: Path) -> tuple[dict[str, Any], bytes]:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def write_parts(path: Path, header: Any, data: bytes) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def changed_header(rng: Random, path: Path) -> str:
    """Types, shapes and places of tensors."""
    header, data = parts_of(path)
    note = header.pop("__metadata__")
    said = changed_json(rng, header)
    write_parts(path, {"__metadata__": note, **header}, data)
    return said


def of_note(change: Callable[[Random, Any], str]) -> Spoil:
    """A way to spoil a network file by a change of its note."""

    def spoil(rng: Random, path: Path) -> str:
        header, data = parts_of(path)
        note = json.loads(header["__metadata__"]["ghostify"])
        said = change(rng, note)
        header["__metadata__"]["ghostify"] = json.dumps(note)
        write_parts(path, header, data)
        return said

    return spoil


def other_origin(rng: Random, note: Any) -> str:
    origin = note["origin"]
    names = [
        *(f"{CANARY}:build", f"{CANARY}:Built.build", "os:system", "builtins:exec", "subprocess:run", "nowhere:net"),
        *("resnet19", "resnet56", "torchvision:resnet18", "torchvision:nothing", "timm:nothing", "", ":", "a b"),
        *("tiny:fails", "tiny:returns_no_module", "tiny:for_two_classes", "../tiny.py:Tiny", "coco:x"),
    ]
    if rng.random() < 0.6:
        origin["name"] = rng.choice(names)
    else:
        values: list[Any] = [10**9, -1, 0, "x", None, [], 1.5, {"tuple": 3}, {"tuple": [1]}, 10**25]
        origin["options"][rng.choice(["num_classes", "width", "pretrained", "ratio", "weights"])] = rng.choice(values)
    return f"its origin is {origin}"


def other_replaced(rng: Random, note: Any) -> str:
    """Layers that do not exist, and absurd ones."""
    name = rng.choice([*note["replaced"], "conv1", "nowhere.conv", "", "head"])
    arguments: list[Any] = [
        {"kind": "Conv2d", "in_channels": 10**6, "out_channels": 10**6, "kernel_size": [3, 3]},
        {"kind": "Conv2d", "in_channels": 10**15, "out_channels": 10**15, "kernel_size": [3, 3]},
        {"kind": "Conv2d", "in_channels": -3, "out_channels": 8, "kernel_size": 3},
        {"kind": "Conv2d", "in_channels": 3, "out_channels": 8, "kernel_size": 3, "groups": 0},
        {"kind": "Linear", "in_features": 10**12, "out_features": 10**12},
        {"kind": "Linear", "in_features": "a", "out_features": 3},
        {"kind": "BatchNorm2d", "num_features": 10**14},
        {"kind": "GhostConv2d", "in_channels": 3},
        {"kind": rng.choice(["Embedding", "system", "", None, 3, ["Conv2d"]])},
        *({}, None, [], "Conv2d"),
    ]
    note["replaced"][name] = rng.choice(arguments)
    return f"{name!r} is replaced by {note['replaced'][name]}"


def changed_note(rng: Random, note: Any) -> str:
    parts = [part for part in ("origin", "replaced") if note.get(part)]
    return changed_json(rng, rng.choice([note, *[note[part] for part in parts]]))


def odd_extra(rng: Random, note: Any) -> str:
    name = rng.choice(["mean", "std", "classes", "image_size", "input_shape", "preprocessing"])
    note["extra"][name] = rng.choice(ODD)
    return f"its {name} are {note['extra'][name]!r}"


def odd_tied(rng: Random, note: Any) -> str:
    names: list[Any] = ["conv1.weight", "conv2.weight", "head.bias", "nothing", "", 3, None, [], "bn1.running_mean"]
    note[rng.choice(["tied", "unlisted"])] = rng.choice(
        [{"conv1.weight": rng.choice(names)}, {"x": rng.choice(names)}, [rng.choice(names)], 3, None, {}]
    )
    return f"tied {note.get('tied')}, unlisted {note.get('unlisted')}"


def spoiled_note(rng: Random, path: Path) -> str:
    """A note that is no JSON, too deep, or not there."""
    header, data = parts_of(path)
    text = rng.choice(["", "{", "[]", "null", "[" * 100_000, '{"origin": ' * 100_000, "9" * 5000, '{"format": 1}'])
    if rng.random() < 0.2:
        del header["__metadata__"]
        text = "absent"
    else:
        header["__metadata__"]["ghostify"] = text
    write_parts(path, header, data)
    return f"its note is {text[:20]}"


def other_tensors(rng: Random, path: Path) -> str:
    """A network's file with another's tensors, or with tensors of a fault."""
    metadata = parts_of(path)[0]["__metadata__"]
    said = other_state(rng, path)
    if path.read_bytes()[8:9] == b"{":
        save_file(state_in(path), path, metadata)
    return said


NETWORKS: list[Spoil] = [
    *BYTES,
    *[changed_header] * 3,
    *[of_note(changed_note)] * 5,
    *[of_note(other_origin)] * 5,
    *[of_note(other_replaced)] * 4,
    of_note(odd_extra),
    of_note(odd_tied),
    *[spoiled_note] * 2,
    *[other_tensors] * 4,
    *[with_objects],
]


# Images.


def other_picture(rng: Random, path: Path) -> str:
    """Modes and sizes that images seldom have, and headers that claim what is not there."""
    what = rng.choice(["text", "thin", "one pixel", "huge", "32 bits", "EPS", "SVG", "two pixels of 16 bits", "1 bit"])
    path.unlink()
    if what == "text":
        path.write_text("no picture\n")
    elif what == "huge":  # by its header alone
        content = io.BytesIO()
        Image.new("L", (9, 9)).save(content, "png")
        side = struct.pack(">II", rng.choice([10**5, 2**31 - 1]), rng.choice([10**5, 2**31 - 1]))
        path.write_bytes(content.getvalue()[:16] + side + content.getvalue()[24:])
    elif what == "EPS":
        path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(canary) (w) file closefile showpage\n")
    elif what == "SVG":
        path.write_text('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>')
    else:
        sizes = {"thin": (4000, 1), "one pixel": (1, 1), "two pixels of 16 bits": (2, 1)}
        modes = {"32 bits": "F", "two pixels of 16 bits": "I;16", "1 bit": "1"}
        image = Image.new(modes.get(what, "RGB"), sizes.get(what, (20, 24)))
        image.save(path, "tiff" if what == "32 bits" else "png")
    return what


IMAGES: list[Spoil] = [*BYTES, *[cut] * 2, *[other_picture] * 4]


# Folders of images.


def files_below(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file())


def broken_images(rng: Random, path: Path) -> str:
    """Some or all images of a folder."""
    files = files_below(path)
    chosen = files if rng.random() < 0.5 else rng.sample(files, min(len(files), rng.choice([1, 3])))
    spoil = rng.choice([cut, emptied, other_bytes])
    for file in chosen:
        spoil(rng, file)
    return f"{len(chosen)} of {len(files)} images: {spoil.__name__}"


def odd_folder(rng: Random, path: Path) -> str:
    """Parts of a folder of train/ and val/ that are absent, empty or files."""
    folders = sorted(folder for folder in path.rglob("*") if folder.is_dir()) or [path]
    folder = rng.choice(folders)
    how = rng.choice(["absent", "empty", "a file", "renamed", "twice as deep", "without endings", "one more beside"])
    if how == "renamed":
        folder.rename(folder.with_name(f"{folder.name}q"))
    elif how == "twice as deep":
        (folder / "deeper").mkdir()
        for file in list(folder.iterdir()):
            if file.name != "deeper":
                file.rename(folder / "deeper" / file.name)
    elif how == "without endings":
        for file in files_below(folder):
            file.rename(file.with_suffix(""))
    elif how == "one more beside":
        (folder / "more").mkdir()
    else:
        shutil.rmtree(folder)
        if how == "empty":
            folder.mkdir()
        elif how == "a file":
            folder.write_text("")
    return f"{folder.name} is {how}"


def file_instead(rng: Random, path: Path) -> str:
    remove(path)
    path.write_text("no folder")
    return "a file"


def emptied_folder(rng: Random, path: Path) -> str:
    shutil.rmtree(path)
    path.mkdir()
    return "an empty folder"


FOLDERS: list[Spoil] = [*[broken_images] * 3, *[odd_folder] * 5, file_instead, emptied_folder, absent]
PHOTOGRAPHS: list[Spoil] = [*[broken_images] * 2, odd_folder, file_instead, emptied_folder, absent]


# Arrays.


def other_arrays(rng: Random, path: Path) -> str:
    """Keys, types, shapes and labels."""
    with np.load(path) as archive:
        arrays: dict[str, Any] = dict(archive)
    key = rng.choice(list(arrays))
    array = arrays[key]
    changes: dict[str, Callable[[], Any]] = {
        "float": lambda: array / 255,
        "int64": lambda: array.astype(np.int64) + 1000,
        "bool": lambda: array > 1,
        "text": lambda: array.astype(str),
        "objects": lambda: np.array([RunsWhenOpened()] * len(array), object),
        "complex": lambda: array + 1j,
        "flat": lambda: array.reshape(-1),
        "one dimension more": lambda: array[None],
        "one dimension less": lambda: array[0],
        "one number": lambda: np.uint8(3),
        "none": lambda: array[:0],
        "fewer": lambda: array[:-3],
        "no pixel": lambda: array[:, :0],
        "not square": lambda: array[:, :5],
        "negative": lambda: array.astype(np.int64) - 1,
        "huge": lambda: array.astype(np.int64) * 10**15,
        "structured": lambda: np.zeros(len(array), [("a", int), ("b", float)]),
        "dates": lambda: array.astype("datetime64[s]"),
        "one class": lambda: np.zeros_like(array),
        "not a number": lambda: np.full(array.shape, np.nan),
    }
    what = rng.choice(["missing", "renamed", *changes])
    del arrays[key]
    if what != "missing":
        arrays[f"{key}q" if what == "renamed" else key] = array if what == "renamed" else changes[what]()
    np.savez(path, **arrays)
    return f"{key}: {what}"


def one_array(rng: Random, path: Path) -> str:
    with path.open("wb") as file:
        np.save(file, np.zeros((3, 4)))
    return "an .npy"


ARRAYS: list[Spoil] = [*BYTES, *[other_arrays] * 10, one_array]


# Images with boxes.


def of_annotations(spoil: Spoil) -> Spoil:
    """A way to spoil a folder in COCO's layout by one of its annotation files."""

    def of_one(rng: Random, path: Path) -> str:
        file = rng.choice(sorted((path / "annotations").iterdir()))
        return f"{file.name}: {spoil(rng, file)}"

    return of_one


def odd_rows(rng: Random, content: Any) -> str:
    """Values of one row of the images, categories or boxes."""
    row = rng.choice(content[rng.choice(["images", "annotations", "categories"])])
    key = rng.choice(list(row))
    row[key] = rng.choice([*ODD, [1, 2, 3], [1, 2, -3, 4], [0, 0, 1e9, 1e9], "../../../etc/passwd", 999])
    return f"{key!r} is {str(row[key])[:40]!r}"


BOXES: list[Spoil] = [
    *[of_annotations(as_json(odd_rows))] * 6,
    *[of_annotations(as_json(changed_json))] * 2,
    *[of_annotations(spoil) for spoil in (cut, emptied, other_json, deep_json, folder_instead, absent, other_bytes)],
    broken_images,
    odd_folder,
    file_instead,
    absent,
]
