"""Networks made ready to be run and no more to be trained: by OpenVINO on a CPU, by torch anywhere.

OpenVINO computes the same in float32, about twice as fast as torch's own CPU code where kernels are depthwise
and pictures small (``python -m bench.cams``); numbers differ in their last digits. In bfloat16, where a
processor has instructions for it, it takes about half of that, and numbers have two to three digits.
"""

from __future__ import annotations

import sys
import threading
import warnings
from functools import cache
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dsrg.inference import Forward
from dsrg.models.folding import settle_norms

Engine = Literal["openvino", "torch"]
Precision = Literal["32-true", "bf16-mixed"]

_EXAMPLE = (1, 3, 96, 128)
_OTHER = (2, 3, 321, 65)  # sizes that a trace of the example must not have fixed, nor bfloat16 rounded
_FAR = 1.0  # of the largest value: bfloat16 may be as far off where a picture shows nothing, not in size


class Prepared(NamedTuple):
    """A network ready to be run.

    Attributes
    ----------
    forward : callable
        ``(B, 3, h, w)`` float32 on the device to the tuple of float32 tensors there. Call it under
        `torch.inference_mode`.
    streams : int
        As many threads may call it at a time.
    """

    forward: Forward
    streams: int


def prepare_network(
    network: nn.Module,
    *,
    device: torch.device,
    engine: Engine,
    inference_precision: Precision = "32-true",
    streams: int = 1,
    threads: int = 0,
) -> Prepared:
    """Prepare a network for inference.

    Parameters
    ----------
    network : nn.Module
        Maps ``(B, 3, h, w)`` RGB in [0, 1] to a tuple of tensors, for any ``B``, ``h`` and ``w``. Changed for
        good: it cannot be trained any more.
    device : torch.device
    engine : {'openvino', 'torch'}
        What runs it on a CPU; on a GPU it is torch, and where OpenVINO cannot, which is warned of.
    inference_precision : {'32-true', 'bf16-mixed'}
        Numbers that it computes in: bfloat16 on a GPU, and by OpenVINO on a CPU that has instructions for it;
        what torch runs on a CPU stays in float32, which is faster there.
    streams : int
        As many threads are to call the result at a time, and share its cores, if ``openvino`` runs it; what
        torch runs has all cores already, and one stream.
    threads : int
        Cores that ``openvino`` takes; 0 is as many as torch does. How many there are changes no number.

    Returns
    -------
    Prepared
    """
    network = settle_norms(network.eval())
    forward = cast(Forward, network.to(device, memory_format=torch.channels_last))  # type: ignore[call-overload]
    if device.type != "cpu":
        half = inference_precision == "bf16-mixed"
        return Prepared(_Autocast(forward, device.type) if half else forward, 1)
    if engine == "torch":
        return Prepared(forward, 1)
    try:
        model = _trace(network)
        settings: Any = {"streams": streams, "threads": threads or torch.get_num_threads()}
        compiled = _OpenVino(model, "f32", **settings)
        _compare(compiled, forward)
        if inference_precision == "bf16-mixed" and _has_bfloat16():
            compiled = _OpenVino(model, "bf16", **settings)
            _compare(compiled, forward, far=_FAR)
    except Exception as error:  # noqa: BLE001  # OpenVINO's own share no base
        first = str(error).strip().splitlines()[0] if str(error) else type(error).__name__
        warnings.warn(f"OpenVINO cannot run this network as torch does, so torch does: {first}", stacklevel=2)
        return Prepared(forward, 1)
    return Prepared(compiled, streams)


def _compare(forward: Forward, expected: Forward, *, far: float = 1e-3) -> None:
    """Refuse what answers otherwise than expected, for pictures of a size that it was not traced with."""
    with torch.inference_mode():
        view = torch.linspace(0, 1, 3 * 5 * 7).remainder(0.37).view(1, 3, 5, 7)
        view = functional.interpolate(view, size=_OTHER[-2:], mode="bicubic").repeat(_OTHER[0], 1, 1, 1)
        view = view.contiguous(memory_format=torch.channels_last)
        for answer, wanted in zip(forward(view), expected(view), strict=True):
            torch.testing.assert_close(answer, wanted, rtol=far, atol=far * float(wanted.abs().max()))


class _Autocast:
    """A network that a GPU runs in bfloat16, with sums and answers in float32."""

    def __init__(self, forward: Forward, device: str) -> None:
        self._forward, self._device = forward, device

    def __call__(self, view: Tensor) -> tuple[Tensor, ...]:
        with torch.autocast(self._device, torch.bfloat16):
            answers = self._forward(view)
        return tuple(answer.float() for answer in answers)


def _trace(network: nn.Module) -> Any:
    """Trace a network as a model of OpenVINO, for pictures of any size."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch's remarks on tracing; results are compared
        model = _import_openvino().convert_model(network, example_input=torch.rand(_EXAMPLE))
    model.reshape([-1, 3, -1, -1])
    return model


class _OpenVino:
    """A network that OpenVINO runs; every thread that calls it has its own buffers."""

    def __init__(self, model: Any, number: str, *, streams: int, threads: int) -> None:
        self._compiled = _start_core().compile_model(
            model,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": number,  # where a processor has bfloat16, that is the default
                "NUM_STREAMS": streams,
                "INFERENCE_NUM_THREADS": max(threads, streams),
                "ENABLE_CPU_PINNING": False,  # other processes compute here too
            },
        )
        self._own = threading.local()

    def __call__(self, view: Tensor) -> tuple[Tensor, ...]:
        request: Any = getattr(self._own, "request", None)
        if request is None:
            request = self._own.request = self._compiled.create_infer_request()
        request.infer([np.ascontiguousarray(view.numpy())], share_inputs=True)
        # copied, because the next call writes into the same memory
        return tuple(torch.from_numpy(output.data.copy()) for output in request.output_tensors)


@cache
def _start_core() -> Any:
    """Start OpenVINO, once: it is never ended.

    Its plugin for CPUs replaces the stack that signal handlers of the thread run on, and frees it when the
    plugin ends: if that happens in another thread, the next signal is the end of the process (2026.4).
    """
    return _import_openvino().Core()


def _has_bfloat16() -> bool:
    """Whether the processor has instructions for bfloat16; without, they would be imitated."""
    return "BF16" in _start_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _import_openvino() -> Any:
    """Import OpenVINO without its telemetry, which reports to its makers unless it is missing."""
    if "openvino" not in sys.modules:
        name = "openvino_telemetry"
        before = sys.modules.get(name)
        sys.modules[name] = cast(Any, None)  # an import of it fails, which OpenVINO is prepared for
        try:
            import openvino
        finally:
            del sys.modules[name]
            if before is not None:
                sys.modules[name] = before
    import openvino

    return openvino
