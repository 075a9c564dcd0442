"""A picture that has a dark one beside it, `plot.png` and `plot_dark.png`, is shown by the reader's scheme."""

from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx


def add_dark(app: Sphinx, document: nodes.document) -> None:
    """Put the dark picture behind each light one; furo hides one of them."""
    folder = Path(document["source"]).parent
    for image in list(document.findall(nodes.image)):
        light = Path(image["uri"])
        dark = light.with_name(f"{light.stem}_dark{light.suffix}")
        if (folder / dark).exists():
            other = image.deepcopy()
            other["uri"] = str(dark)
            image["classes"].append("only-light")
            other["classes"].append("only-dark")
            image.parent.insert(image.parent.index(image) + 1, other)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("doctree-read", add_dark, priority=100)  # before the pictures are collected
    return {"parallel_read_safe": True}
