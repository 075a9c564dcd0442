"""The documentation as built: no warning, and readable in a real browser, narrow and wide, light and dark."""

import functools
import http.server
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
    pytest.mark.skipif(find_spec("furo") is None, reason="needs the group docs of pyproject.toml"),
]
PAGES = [str(page.relative_to(ROOT / "docs").with_suffix(".html")) for page in (ROOT / "docs").rglob("*.md")]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing of each request."""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the site is served, built anew with warnings as errors."""
    folder = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-W",
        "--keep-going",
        "-b",
        "html",
        str(ROOT / "docs"),
        str(folder),
    ]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield chromium
        chromium.close()


def opened(browser: Browser, address: str, width: int, scheme: str) -> tuple[Page, list[str]]:
    """A page, and what its console says or what it asks others for."""
    page = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme).new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith(address) else complaints.append(request.url))
    page.on("response", lambda answer: complaints.append(answer.url) if answer.status >= 400 else None)
    return page, complaints


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (390, "dark"), (1400, "dark")])
def test_no_page_scrolls_sideways_complains_or_asks_others(
    browser: Browser, address: str, width: int, scheme: str
) -> None:
    page, complaints = opened(browser, address, width, scheme)
    wide = []
    for name in PAGES:
        page.goto(address + name)
        if page.evaluate("document.documentElement.scrollWidth") > width:
            wide.append(name)
    assert wide == []
    assert complaints == []


# Texts whose contrast is below WCAG's 4.5.
CONTRAST = """() => {
    const channels = colour => colour.match(/[\\d.]+/g).map(Number);
    const linear = v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const light = colour => {
        const [r, g, b] = channels(colour).map(v => linear(v / 255));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = element => {
        for (let e = element; e; e = e.parentElement) {
            const colour = getComputedStyle(e).backgroundColor, alpha = channels(colour)[3];
            if (alpha === undefined || alpha === 1) return colour;
        }
        return 'rgb(255, 255, 255)';
    };
    const texts = ['p', 'td', 'th', 'code', 'a', 'h1', 'dt', 'dd'].map(tag => 'article ' + tag).join();
    const poor = [];
    for (const element of document.querySelectorAll(texts)) {
        if (!element.innerText.trim()) continue;
        const [a, b] = [light(getComputedStyle(element).color), light(behind(element))].sort((x, y) => y - x);
        if ((a + 0.05) / (b + 0.05) < 4.5) poor.push(element.innerText.trim().slice(0, 40));
    }
    return poor;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_letters_stand_out_in_both_schemes(browser: Browser, address: str, scheme: str) -> None:
    page, _ = opened(browser, address, 390, scheme)
    for name in ("index.html", "planning.html", "howto/refusals.html", "reference/python.html"):
        page.goto(address + name)
        assert page.evaluate(CONTRAST) == [], name


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_plot_is_that_of_the_scheme(browser: Browser, address: str, scheme: str) -> None:
    page, _ = opened(browser, address, 390, scheme)
    page.goto(address + "index.html")
    shown = page.eval_on_selector_all("article img", "all => all.filter(i => i.offsetWidth > 0).map(i => i.src)")
    assert [source.endswith("_dark.png") for source in shown] == [scheme == "dark"]


@pytest.mark.parametrize(
    ("words", "expected"), [("VNNI", "int8.html"), ("target-speedup", "reference/command-line.html")]
)
def test_search_finds_a_page(browser: Browser, address: str, words: str, expected: str) -> None:
    page, complaints = opened(browser, address, 390, "light")
    page.goto(f"{address}search.html?q={words}")
    page.wait_for_selector(f"#search-results li a[href*='{expected}']")
    assert complaints == []
