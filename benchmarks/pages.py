"""How long the numbers of 512 maps take, what their page weighs, and how fast it answers in Chromium, as CSV.

    python benchmarks/pages.py --out benchmarks/results/pages.csv

The maps are 512 of 56×56 pixels that a random convolution makes of a photograph; with a ghost, three times as many.
An answer is timed in the page, from the event to the second frame after it, of which a frame takes 17 ms by itself.
"""

import argparse
import shlex
import shutil
import statistics
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from playwright.sync_api import Page, sync_playwright
from rows import write_rows
from torch import nn

from ghostify import convert
from ghostify.data import ImageData
from ghostify.data.augment import normalise
from ghostify.data.photograph import photograph
from ghostify.jobs.look import look
from ghostify.jobs.look_page import write_look
from ghostify.measure.environment import describe_environment

MAPS, SIDE, REPEATS = 512, 56, 15
# What a user does, as a function of the page's maps and the number of the repeat.
ACTIONS = {
    "point at a map": "maps[n].dispatchEvent(new PointerEvent('pointerover', {bubbles: true, pointerType: 'mouse'}))",
    "tap a map": "maps[n].dispatchEvent(new MouseEvent('click', {bubbles: true}))",
    "arrow key": "maps[0].dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight', bubbles: true}))",
    "size of the filter": "set('size', n % 4)",
    "layer": "set('layer', n % 2)",
    "order": "set('order', ['similar', 'alone', 'varied', 'place'][n % 4])",
}
TIMED = """async (n) => {
  const maps = [...document.querySelectorAll('.map')];
  const set = (id, value) => {
    const node = document.getElementById(id);
    node.value = value;
    node.dispatchEvent(new Event(id === 'order' ? 'change' : 'input', {bubbles: true}));
  };
  const frame = () => new Promise(requestAnimationFrame);
  await frame();
  const begun = performance.now();
  ACTION;
  await frame();
  await frame();
  return performance.now() - begun;
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, MAPS, 7, padding=3), nn.ReLU(), nn.Conv2d(MAPS, MAPS, 1))
    x = normalise(photograph(None, SIDE, SIDE), ImageData.mean, ImageData.std)
    rows = []
    for against in (None, convert(network).model):
        started = time.perf_counter()
        layers = look(network, x, ["0", "2"], against=against)
        seconds = (time.perf_counter() - started) / len(layers)
        with TemporaryDirectory() as folder:
            kind = "512 maps beside a ghost's" if against is not None else "512 maps"
            ghost = None if against is None else "its ghost"
            write_look(Path(folder), layers[:1], title=kind, image="a photograph", against=ghost)
            one_layer = (Path(folder) / "look.html").stat().st_size
            write_look(Path(folder), layers, title=kind, image="a photograph", against=ghost)
            answers = timed(Path(folder) / "look.html")
        for action, ms in answers.items():
            rows.append(
                {
                    "page": kind,
                    "seconds_for_a_layer": f"{seconds:.1f}",
                    "page_mb_of_a_layer": f"{one_layer / 1e6:.2f}",
                    "action": action,
                    "answers_ms_median": f"{statistics.median(ms):.0f}",
                    "answers_ms_most": f"{max(ms):.0f}",
                    "repeats": len(ms),
                    **describe_environment("cpu"),
                    "command": "python " + shlex.join(sys.argv),
                }
            )
    write_rows(arguments.out, rows)


def timed(file: Path) -> dict[str, list[float]]:
    """Milliseconds of each action, over and over."""
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        page: Page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.goto(file.absolute().as_uri())
        page.evaluate(TIMED.replace("ACTION", "set('size', 1)"), 0)  # what is decoded once
        found = {
            action: [page.evaluate(TIMED.replace("ACTION", code), n) for n in range(REPEATS)]
            for action, code in ACTIONS.items()
        }
        browser.close()
    return found


if __name__ == "__main__":
    main()
