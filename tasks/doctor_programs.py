"""What must run, tried in processes of their own, which may crash: torch, numba, the CRF, OpenVINO."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.doctor import Finding, Patient

_DEVICE = Path("/dev/nvidiactl")
_SECONDS = 90.0  # a first import from a slow disk
_TORCH = """
import json, warnings
import torch
found = {"torch": torch.__version__, "cuda": torch.version.cuda, "devices": []}
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    found["available"] = torch.cuda.is_available()
    for number in range(torch.cuda.device_count() if found["available"] else 0):
        try:
            free, total = torch.cuda.mem_get_info(number)
        except Exception as error:
            free, total = None, str(error).splitlines()[0]
        found["devices"].append([torch.cuda.get_device_name(number), free, total])
    found["said"] = [str(warning.message).splitlines()[0] for warning in said]
print(json.dumps(found), flush=True)
"""
_TORCHVISION = """
import torch, torchvision
kept = torchvision.ops.nms(torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2]]), torch.tensor([1.0, 0.5]), 0.5)
assert kept.tolist() == [0], kept
print(torchvision.__version__)
"""
_CRF = """
import numpy as np
import pydensecrf.densecrf as densecrf
crf = densecrf.DenseCRF2D(6, 4, 2)
crf.setUnaryEnergy(np.tile(np.float32([[0.2], [1.6]]), (1, 24)))
crf.addPairwiseGaussian(sxy=1, compat=3)
crf.addPairwiseBilateral(sxy=3, srgb=5, rgbim=np.zeros((4, 6, 3), np.uint8), compat=4)
marginals = np.array(crf.inference(3))
assert marginals.shape == (2, 24) and (marginals[0] > 0.7).all(), marginals
"""
_NUMBA = """
import numba, numpy as np
@numba.njit
def add(values):
    total = 0
    for value in values:
        total += value
    return total
assert add(np.arange(5)) == 10
print(numba.__version__)
"""
_OPENVINO = """
import sys
sys.modules["openvino_telemetry"] = None  # as dsrg.engines has it
import numpy as np, openvino
from openvino import opset13
given = opset13.parameter([1, 3], np.float32)
model = openvino.Model([opset13.relu(given)], [given])
answer = openvino.Core().compile_model(model, "CPU")([np.float32([[-1, 0, 2]])])[0]
assert answer.tolist() == [[0, 0, 2]], answer
print(openvino.__version__.partition("-")[0])
"""
_PROGRAMS = {
    "torch": _TORCH,
    "torchvision": _TORCHVISION,
    "pydensecrf": _CRF,
    "numba": _NUMBA,
    "OpenVINO": _OPENVINO,
}
_REINSTALL = {
    "torch": "pip install --force-reinstall torch torchvision",
    "torchvision": "pip install --force-reinstall torch torchvision, both from one place",
    "pydensecrf": "pip uninstall pydensecrf; pip install --force-reinstall --no-deps pydensecrf2 (needs gcc)",
    "numba": "pip install -U numba",
    "OpenVINO": "pip install --force-reinstall openvino, or dsrg run --set compute.engine=torch",
}


def start_programs() -> dict[str, subprocess.Popen[str]]:
    """Start all of them at once; :func:`check_programs` waits for them."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return {
        name: subprocess.Popen(
            [sys.executable, "-c", program],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        for name, program in _PROGRAMS.items()
    }


def check_programs(patient: Patient, programs: Mapping[str, subprocess.Popen[str]]) -> Iterator[Finding]:
    """Wait for the programs and tell how they went."""
    for name, program in programs.items():
        try:
            said, errors = program.communicate(timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            program.kill()
            program.communicate()
            text = f"did not answer in {_SECONDS:.0f} s"
            yield Finding(name, "problem", text, "is the disk or the machine busy? Then again")
            continue
        if program.returncode:
            yield Finding(name, "problem", tell_failure(program.returncode, errors), _REINSTALL[name])
        elif name == "torch":
            found = json.loads(said.splitlines()[-1])
            yield Finding(name, "ok", f"{found['torch']} runs, made for {tell_build(found)}")
            yield from check_gpu(patient, found)
        else:
            words = said.split()
            yield Finding(name, "ok", f"{words[-1]} runs" if words else "refines a picture of two classes")
    yield from check_numba_cache(patient)


def tell_failure(status: int, errors: str) -> str:
    """Tell why a program failed: the last line that it wrote, or the signal that ended it."""
    if status < 0:
        return f"crashes when it is loaded ({signal.Signals(-status).name})"
    lines = [line for line in errors.strip().splitlines() if line.strip()]
    return lines[-1] if lines else f"ends with status {status}"


def tell_build(found: Mapping[str, Any]) -> str:
    """Tell what torch was built for."""
    return f"CUDA {found['cuda']}" if found["cuda"] else "the CPU alone"


def check_gpu(patient: Patient, found: Mapping[str, Any]) -> Iterator[Finding]:
    """Check GPUs: what torch sees against what the system has and params.yaml asks for."""
    wanted = patient.params is not None and patient.params.compute.device == "cuda"
    if found["available"]:
        for name, free, total in found["devices"]:
            if free is None:
                yield Finding("GPU", "problem", f"{name}: {total}", "is it in use by another process?")
            else:
                yield Finding("GPU", "ok", f"{name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free")
        return
    driver = find_driver()
    if wanted:
        text = "params.yaml sets compute.device to cuda, but torch sees no GPU"
        yield Finding("GPU", "problem", text, "dsrg run --set compute.device=auto, or what follows")
    if driver is None:
        if not wanted:
            yield Finding("GPU", "ok", "none: the CPU is used")
    elif not found["cuda"]:
        remedy = "install the build for CUDA: Get Started on pytorch.org gives the command"
        yield Finding("GPU", "warning", f"{driver}, but torch is made for the CPU alone", remedy)
    elif not _DEVICE.exists():
        remedy = "in a container: start it with --gpus all"
        yield Finding("GPU", "warning", f"{driver}, but no device is passed to this system", remedy)
    else:
        said = f": {found['said'][0]}" if found["said"] else ""
        remedy = "update the driver, or install a build of torch for an older CUDA"
        yield Finding("GPU", "warning", f"{driver}, but torch cannot use it{said}", remedy)


def find_driver() -> str | None:
    """Find NVIDIA's driver; None if there is none."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "NVIDIA driver for WSL" if Path("/usr/lib/wsl/lib/libcuda.so.1").exists() else None
    words = text.partition("Kernel Module")[2].split()
    return f"NVIDIA driver {next((word for word in words if word[:1].isdigit()), 'of unknown version')}"


def check_numba_cache(patient: Patient) -> Iterator[Finding]:
    """Check that compiled code can be kept; numba refuses to run where it cannot."""
    import dsrg

    home = Path(patient.environ.get("XDG_CACHE_HOME") or Path(patient.environ.get("HOME", "/")) / ".cache")
    own = patient.environ.get("NUMBA_CACHE_DIR")
    beside = Path(str(dsrg.__file__)).parent / "__pycache__"
    places = [Path(own)] if own else [beside, home / "numba"]
    if not any(may_write(place) for place in places):
        text = f"compiled code can be kept nowhere (tried {', '.join(map(str, places))})"
        yield Finding("numba", "problem", text, "export NUMBA_CACHE_DIR=/tmp/numba")


def may_write(place: Path) -> bool:
    """Tell whether a file or folder, or the first folder above it that exists, may be written into."""
    while not place.exists() and place != place.parent:
        place = place.parent
    return os.access(place, os.W_OK)
