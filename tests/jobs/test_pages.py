"""The pages in a real browser: mouse, finger, keyboard, both colour schemes, narrow and wide."""

import shutil
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Browser, Page, sync_playwright
from torch import nn

from ghostify import convert
from ghostify.data.images import ImageData, MemoryImages
from ghostify.inference.explain import BeforeAfter, ExplainedLayer, Explanation
from ghostify.jobs.classes_of_run import ClassesOfRun
from ghostify.jobs.look import layers_to_pick, look
from ghostify.jobs.look_page import write_look
from ghostify.jobs.report import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
NAME = "<script>title='run'<" + "/script><b>bold"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page of two layers, one with a name that would run, and one with a ghost beside."""
    torch.manual_seed(0)
    layers = OrderedDict({NAME: nn.Conv2d(3, 40, 3, padding=1), "act": nn.ReLU(), "next": nn.Conv2d(40, 16, 3, 2)})
    network = nn.Sequential(layers)
    with torch.no_grad():
        network[0].weight[7] = 0.0  # a constant map
        network[0].weight[12] = -2 * network[0].weight[3]
    x = torch.randn(1, 3, 24, 24)
    folders = {name: tmp_path_factory.mktemp(name) for name in ("alone", "beside")}
    pixels = torch.randint(0, 256, (3, 24, 24), dtype=torch.uint8)
    alone = look(network, x, [NAME, "next"])
    write_look(folders["alone"], alone, title=NAME, image=NAME, photograph=pixels, others=layers_to_pick(network, x))
    ghost = convert(network).model
    both = look(network, x, [NAME, "next"], against=ghost)
    write_look(folders["beside"], both, title=NAME, image="noise", against=NAME)
    return {name: folder / "look.html" for name, folder in folders.items()}


def opened(
    browser: Browser, file: Path, width: int = 1200, scheme: str = "light", touch: bool = False
) -> tuple[Page, list[str]]:
    """The page, and what its console says or what it asks the network for."""
    context = browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme, has_touch=touch, is_mobile=touch
    )
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: complaints.append(request.url) if request.url.startswith("http") else None)
    page.goto(file.as_uri())
    return page, complaints


def detail(page: Page) -> str:
    return page.locator("#detail p").inner_text().replace("\u00a0", " ")


@pytest.mark.parametrize("name", ["alone", "beside"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1600])
def test_it_fits_and_is_readable_everywhere(
    browser: Browser, pages: dict[str, Path], name: str, scheme: str, width: int
) -> None:
    page, complaints = opened(browser, pages[name], width, scheme, touch=width == 360)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ink, paper = page.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    assert contrast(ink, paper) > 7
    soft = page.evaluate("getComputedStyle(document.querySelector('.hint')).color")
    assert contrast(soft, paper) > 4.5
    page.locator("#layer").select_option("1")
    page.locator("#size").fill("0")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert tables_that_scroll(page) == 0
    assert smallest_text(page) >= 10
    assert complaints == []


def tables_that_scroll(page: Page) -> int:
    return page.evaluate("[...document.querySelectorAll('.wide')].filter((e) => e.scrollWidth > e.clientWidth).length")


def smallest_text(page: Page) -> float:
    """The least height of a plot's letters on the screen, pixels."""
    return page.evaluate(
        """() => Math.min(...[...document.querySelectorAll("svg text")].map((text) =>
            parseFloat(getComputedStyle(text).fontSize) * Math.hypot(text.getScreenCTM().a, text.getScreenCTM().b)))"""
    )


def contrast(a: str, b: str) -> float:
    """Of two colours as `rgb(r, g, b)` (WCAG 2.2, relative luminance)."""

    def luminance(colour: str) -> float:
        channels = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(a), luminance(b)))
    return (light + 0.05) / (dark + 0.05)


def test_names_are_shown_and_never_run(browser: Browser, pages: dict[str, Path]) -> None:
    for name in ("alone", "beside"):
        page, complaints = opened(browser, pages[name])
        assert page.title() == f"Maps of {NAME}"
        assert NAME in page.locator("h1").inner_text()
        assert NAME in page.locator("#maps-heading").inner_text()
        assert page.locator("#layer option").first.inner_text() == NAME
        assert page.locator("b").count() == 0
        assert complaints == []


def test_the_mouse_shows_a_maps_partner_error_and_filter(browser: Browser, pages: dict[str, Path]) -> None:
    page, complaints = opened(browser, pages["alone"])
    assert page.locator(".map").count() == 40
    page.locator(".map[data-index='12']").hover()
    assert detail(page) == "Map 12. Map 3 is most like it: the best 3×3 filter of that one leaves 0.00 %."
    assert page.locator(".map.partner").get_attribute("data-index") == "3"
    assert page.locator("#detail td").count() == 9
    assert page.locator("#detail td").nth(4).inner_text() == "-2.00"
    page.locator(".map[data-index='7']").hover()
    assert detail(page) == "Map 7. It is constant."
    assert page.locator("#detail td").count() == 0
    page.locator(".map[data-index='12']").click()  # held from here on
    page.locator(".map[data-index='20']").hover()
    assert detail(page).startswith("Map 12.")
    assert page.locator(".map[aria-selected=true]").get_attribute("data-index") == "12"
    page.keyboard.press("Escape")
    page.locator(".map[data-index='25']").hover()
    assert detail(page).startswith("Map 25.")
    assert complaints == []


def test_a_finger_holds_a_map(browser: Browser, pages: dict[str, Path]) -> None:
    page, complaints = opened(browser, pages["alone"], 375, touch=True)
    page.locator(".map[data-index='5']").tap()
    assert detail(page).startswith("Map 5.")
    page.locator(".map[data-index='2']").tap()
    assert detail(page).startswith("Map 2.")
    assert complaints == []


def test_the_keyboard_reaches_every_map_with_one_tab_stop(browser: Browser, pages: dict[str, Path]) -> None:
    page, complaints = opened(browser, pages["alone"])
    for _ in range(4):  # layer, size, order, maps
        page.keyboard.press("Tab")
    focused = "document.activeElement.dataset.index"
    assert page.evaluate(focused) == "0"
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused) == "1"
    assert detail(page).startswith("Map 1.")
    tops = page.evaluate("[...document.querySelectorAll('.map')].map((map) => map.offsetTop)")
    columns = tops.count(tops[0])
    page.keyboard.press("ArrowDown")
    assert page.evaluate(focused) == str(1 + columns)
    page.keyboard.press("End")
    assert page.evaluate(focused) == "39"
    page.keyboard.press("ArrowRight")  # no further
    assert page.evaluate(focused) == "39"
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    assert page.locator(".map[aria-selected=true]").get_attribute("data-index") == "0"
    labels = page.evaluate("[...document.querySelectorAll('[role=option]')].map((map) => map.ariaLabel)")
    assert len(labels) == 40
    assert all(label.startswith("Map ") for label in labels)
    assert complaints == []


def test_the_slider_changes_the_filter_and_the_list_the_layer(browser: Browser, pages: dict[str, Path]) -> None:
    page, complaints = opened(browser, pages["alone"])
    assert page.locator("#pairs tr").count() == 9
    assert page.locator(".links line").count() == 8
    assert page.locator(".map.pair").count() == 16
    first = page.locator("#pairs tr").nth(1).locator("td").all_inner_texts()
    assert {first[0], first[1]} == {"3", "12"}
    for place, size in enumerate(("1×1", "3×3", "5×5", "7×7")):
        page.locator("#size").fill(str(place))
        assert page.locator("#size-name").inner_text() == size
        assert page.locator("#size").get_attribute("aria-valuetext") == size
        assert f"({size} filters)" in page.locator("#explained-text").inner_text()
    page.locator("#layer").select_option("next")
    assert page.locator("#maps-heading").inner_text().startswith("next: ")
    assert page.locator(".map").count() == 16
    assert page.locator("#size").get_attribute("max") == "1"  # 11×11 pixels are too few for 5×5
    assert page.locator("#explained polyline").count() == 3
    assert complaints == []


def test_maps_are_sorted_as_asked(browser: Browser, pages: dict[str, Path]) -> None:
    page, complaints = opened(browser, pages["alone"])
    shown = "[...document.querySelectorAll('.map')].map((map) => Number(map.dataset.index))"
    assert page.evaluate(shown) == list(range(40))
    page.locator("#order").select_option("similar")
    similar = page.evaluate(shown)
    assert set(similar[:2]) == {3, 12}
    assert similar[-1] == 7  # constant
    page.locator("#order").select_option("alone")
    assert page.evaluate(shown)[:39] == similar[:39][::-1]
    page.locator("#order").select_option("varied")
    assert sorted(page.evaluate(shown)) == list(range(40))
    assert complaints == []


def test_a_ghost_stands_beside_its_original(browser: Browser, pages: dict[str, Path]) -> None:
    page, complaints = opened(browser, pages["beside"])
    assert page.locator(".map").count() == 40
    assert page.locator(".map").first.locator(".tile").count() == 3
    assert page.locator(".map.intrinsic").count() == page.locator(".map.ghost").count() == 20
    page.locator(".map[data-index='30']").hover()
    assert detail(page).startswith("Map 30, a ghost.")
    assert "of the original's variance" in detail(page)
    assert page.locator("#detail figcaption").all_inner_texts()[2] == "difference"
    assert complaints == []


def test_the_photograph_is_shown_and_the_list_names_the_layers(browser: Browser, pages: dict[str, Path]) -> None:
    page, complaints = opened(browser, pages["alone"])
    photograph = page.locator(".photograph img")
    assert photograph.evaluate("(image) => [image.naturalWidth, image.naturalHeight]") == [24, 24]
    assert photograph.get_attribute("alt") == NAME
    assert photograph.bounding_box()["width"] > 100  # type: ignore[index]  # it is on the page
    assert page.locator("#layer option:enabled").all_inner_texts() == [NAME, "next"]
    assert page.locator("#layer option:disabled").all_inner_texts() == ["act"]  # those of another look
    assert complaints == []
    page, _ = opened(browser, pages["beside"])
    assert page.locator(".photograph").count() == 0  # none was given
    assert page.locator("#layer option").count() == 2


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of three networks, with figures as long as they get."""
    torch.manual_seed(0)
    original = nn.Sequential(nn.Conv2d(3, 40, 3), nn.ReLU(), nn.Conv2d(40, 40, 3), nn.ReLU())
    ghost = convert(original).model
    row = {
        "score": 0.9876,
        "score_low": 0.9765,
        "score_high": 0.9911,
        "agreement": 0.9912,
        "speedup": 10.17,
        "ms": 1234.567,
    }
    row |= {"speedup_low": 10.02, "speedup_high": 10.31, "size_mb": 1234.56, "macs": 15_470_000_000}
    kinds = {"original": "original", "planned 10×": "ours", "paper's ghost": "rival", "Torch-Pruning": "rival"}
    metrics = {
        "model": "a_network_with_a_long_name",
        "data": "imagefolder:/some/where/deep/in/the/file/system",
        "labelled": True,
        "score": "top-1",
        "engine": "onnxruntime",
        "threads": 16,
        "findings": ["It is so."],
        "networks": [
            row | {"name": name, "kind": kind, "precision": precision}
            for name, kind in kinds.items()
            for precision in ("fp32", "int8")
        ],
        "environment": {"processor": "a processor", "threads": 16, "os": "an-operating-system-with-a-long-version"},
        "settings": {"target_speedup": 10.0, "skip": []},
    }
    macs, ms = BeforeAfter(10**10, 10**10 // 2), BeforeAfter(40.0, 30.0)
    layer = "stages.3.blocks.11.conv_pointwise_linear"
    layers = tuple(ExplainedLayer(f"{layer}.{n}", macs, ms, 1.0, ()) for n in range(3))
    explanation = Explanation(layers, {}, {}, macs, ms, "onnxruntime", 16, ("fp32", "fp32"))
    images = MemoryImages(torch.randint(0, 256, (4, 3, 24, 24), dtype=torch.uint8), torch.zeros(4, dtype=torch.long))
    data = ClassesOfRun(ImageData("noise", images, None, images, ("ant",), 24))
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, metrics, original, ghost, data, explanation)
    return path


def test_on_a_phone_the_report_stacks_its_table_and_its_plots_are_legible(browser: Browser, report: Path) -> None:
    page, complaints = opened(browser, report, 360, touch=True)
    page.locator("details").evaluate("(details) => (details.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert tables_that_scroll(page) == 0
    assert smallest_text(page) >= 10
    first = page.locator(".stacks td").first.evaluate("(cell) => getComputedStyle(cell, '::before').content")
    assert first == '"in"'
    tops = page.locator(".stacks tr").nth(1).locator("th, td").evaluate_all("(cells) => cells.map((c) => c.offsetTop)")
    assert tops == sorted(set(tops)), "one below the other"
    assert page.locator("figure.plot svg").count() == 2
    assert page.locator(".photograph img").count() == 1
    assert complaints == []


def test_on_a_wide_screen_the_report_has_a_table(browser: Browser, report: Path) -> None:
    page, complaints = opened(browser, report, 1200)
    tops = page.locator(".stacks tr").nth(1).locator("th, td").evaluate_all("(cells) => cells.map((c) => c.offsetTop)")
    assert len(tops) == 8
    assert len(set(tops)) == 1
    assert page.locator(".stacks td").first.evaluate("(cell) => getComputedStyle(cell, '::before').content") == "none"
    assert smallest_text(page) >= 12
    assert complaints == []
