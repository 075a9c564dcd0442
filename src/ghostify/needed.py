"""The packages that only some work needs, and the extra of this one that brings each."""

from importlib.util import find_spec

from ghostify.errors import InputError

# A test holds these beside pyproject.toml.
EXTRAS = {
    "matplotlib": "run",
    "jinja2": "run",
    "tensorboard": "tensorboard",
    "timm": "timm",
    "pycocotools": "detect",
    "onnx": "export",
    "onnx_ir": "export",
    "onnxscript": "export",
    "onnxruntime": "export",
    "openvino": "export",
    "nncf": "int8",
}
EXPORTING = ("onnx", "onnxscript")
ENGINES_NEED = {"openvino": (*EXPORTING, "openvino"), "onnxruntime": (*EXPORTING, "onnxruntime")}
PRECISIONS_NEED = {"int8": ("nncf",)}


def refuse_missing(*packages: str, needed_by: str = "this") -> None:
    """Refuse work that needs packages which are not installed.

    Args:
        packages: Names of ``EXTRAS``.
        needed_by: The work, for the message.
    """
    for package in packages:
        if find_spec(package) is None:
            raise missing(package, needed_by)


def missing(package: str, needed_by: str = "this") -> InputError:
    """The refusal, with the command that brings the package."""
    return InputError(
        f"{needed_by} needs the package {package}, which is not installed: pip install 'ghostify[{EXTRAS[package]}]'"
    )


def refuse_engine(engine: str, *precisions: str) -> None:
    """Refuse an engine that is not installed, or that files of these precisions cannot be written for."""
    needed = (package for precision in precisions for package in PRECISIONS_NEED.get(precision, ()))
    refuse_missing(*ENGINES_NEED.get(engine, ()), *needed)


def is_installed(engine: str, precision: str = "fp32") -> bool:
    """True if the packages of an engine and a precision are there."""
    needed = (*ENGINES_NEED.get(engine, ()), *PRECISIONS_NEED.get(precision, ()))
    return all(find_spec(package) is not None for package in needed)
