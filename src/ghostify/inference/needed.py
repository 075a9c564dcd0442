"""The packages that engines and precisions need, which are extras."""

from importlib.util import find_spec

from ghostify.errors import InputError

EXPORTING = ("onnx", "onnxscript")
ENGINES_NEED = {"openvino": (*EXPORTING, "openvino"), "onnxruntime": (*EXPORTING, "onnxruntime")}
PRECISIONS_NEED = {"int8": ("nncf",)}


def refuse_missing(*packages: str) -> None:
    """Refuse work that needs packages which are not installed."""
    for package in packages:
        if find_spec(package) is None:
            raise missing(package)


def missing(package: str) -> InputError:
    return InputError(f"this needs the package {package}, which is not installed: pip install {package}")


def refuse_engine(engine: str, *precisions: str) -> None:
    """Refuse an engine that is not installed, or that files of these precisions cannot be written for."""
    needed = (package for precision in precisions for package in PRECISIONS_NEED.get(precision, ()))
    refuse_missing(*ENGINES_NEED.get(engine, ()), *needed)


def is_installed(engine: str, precision: str = "fp32") -> bool:
    """True if the packages of an engine and a precision are there."""
    needed = (*ENGINES_NEED.get(engine, ()), *PRECISIONS_NEED.get(precision, ()))
    return all(find_spec(package) is not None for package in needed)
