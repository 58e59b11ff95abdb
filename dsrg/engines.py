"""Networks made ready to be run and no more to be trained: by OpenVINO on a CPU, by torch anywhere.

OpenVINO computes the same in float32, about twice as fast as torch's own CPU code where kernels are depthwise
and pictures small (``python -m bench.cams``); numbers differ in their last digits.
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

_EXAMPLE = (1, 3, 96, 128)
_OTHER = (2, 3, 150, 65)  # sizes that a trace of the example must not have fixed


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
    network: nn.Module, *, device: torch.device, engine: Engine, streams: int = 1, threads: int = 0
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
    if engine == "torch" or device.type != "cpu":
        return Prepared(forward, 1)
    try:
        compiled = _OpenVino(network, streams=streams, threads=threads or torch.get_num_threads())
        _compare(compiled, forward)
    except Exception as error:  # noqa: BLE001  # OpenVINO's own share no base
        first = str(error).strip().splitlines()[0] if str(error) else type(error).__name__
        warnings.warn(f"OpenVINO cannot run this network as torch does, so torch does: {first}", stacklevel=2)
        return Prepared(forward, 1)
    return Prepared(compiled, streams)


def _compare(forward: Forward, expected: Forward) -> None:
    """Refuse what answers otherwise than expected, for pictures of a size that it was not traced with."""
    with torch.inference_mode():
        view = torch.linspace(0, 1, 3 * 5 * 7).remainder(0.37).view(1, 3, 5, 7)
        view = functional.interpolate(view, size=_OTHER[-2:], mode="bicubic").repeat(_OTHER[0], 1, 1, 1)
        view = view.contiguous(memory_format=torch.channels_last)
        for answer, wanted in zip(forward(view), expected(view), strict=True):
            torch.testing.assert_close(answer, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))


class _OpenVino:
    """A network that OpenVINO runs; every thread that calls it has its own buffers."""

    def __init__(self, network: nn.Module, *, streams: int, threads: int) -> None:
        openvino = _import_openvino()
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # torch's remarks on tracing; results are compared in the tests
            model = openvino.convert_model(network, example_input=torch.rand(_EXAMPLE))
        model.reshape([-1, 3, -1, -1])
        self._compiled = _start_core().compile_model(
            model,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": "f32",  # where a processor has bfloat16, that is the default
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
