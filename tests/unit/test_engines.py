"""What runs networks: the same numbers from OpenVINO and torch, for pictures of any size, from any thread."""

from __future__ import annotations

import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dsrg.engines import prepare_network
from dsrg.inference import ActivationMaps, Forward, ProbabilityMaps
from dsrg.models import ClassifierSpec, SegmenterSpec

CPU = torch.device("cpu")
SIZES = [(96, 128), (128, 96), (53, 77), (32, 200), (97, 130)]
SPEC = SegmenterSpec(
    backbone="efficientnet_lite0",
    classes=("cat", "dog"),
    output_stride=8,
    aspp_channels=64,
    aspp_rates=(6, 12),
    aspp_separable=True,
    dropout=0.1,
    skip_channels=16,
    input_size=96,
)


def prepare_segmenter(engine: str, **settings: Any) -> Forward:
    torch.manual_seed(0)
    segmenter = SPEC.build(weights="imagenet")
    for layer in (segmenter.skip.mix[-1], *(branch[-1] for branch in segmenter.aspp.branches)):
        torch.nn.init.normal_(layer.weight, std=0.1)
    return prepare_network(ProbabilityMaps(segmenter), device=CPU, engine=engine, **settings).forward


def prepare_classifier(engine: str, **settings: Any) -> Forward:
    torch.manual_seed(0)
    classifier = ClassifierSpec("efficientnet_lite0", ("cat", "dog")).build(
        output_stride=16, weights="imagenet"
    )
    return prepare_network(ActivationMaps(classifier), device=CPU, engine=engine, **settings).forward


@pytest.fixture(scope="module")
def views() -> list[Tensor]:
    torch.manual_seed(1)
    coarse = torch.rand(len(SIZES), 3, 6, 6)
    pictures = []
    for number, size in enumerate(SIZES):
        picture = torch.nn.functional.interpolate(coarse[number : number + 1], size=size, mode="bicubic")
        pictures.append(picture.clamp(0, 1).contiguous(memory_format=torch.channels_last))
    return pictures


@pytest.mark.parametrize("prepare", [prepare_segmenter, prepare_classifier])
def test_both_engines_answer_alike(prepare, views: list[Tensor]):
    ours, torchs = prepare("openvino"), prepare("torch")
    with torch.inference_mode():
        for view in [*views, torch.cat([views[0], views[0].flip(-1)])]:
            answers, expected = ours(view), torchs(view)
            assert len(answers) == len(expected)
            for answer, wanted in zip(answers, expected, strict=True):
                assert answer.dtype == torch.float32
                torch.testing.assert_close(answer, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))
                assert float(wanted.std()) > 1e-3


@pytest.mark.parametrize("size", [(321, 500), (333, 257), (97, 321), (64, 96)])
def test_sizes_are_those_of_torch_in_bfloat16_too(size: tuple[int, int]):
    # 321 is no number of bfloat16: sizes reckoned in floats come out as those of 320
    classifier = ClassifierSpec("efficientnet_lite0", ("cat", "dog")).build(output_stride=16, weights="none")
    view = torch.rand(1, 3, *size)
    expected = [answer.shape for answer in ActivationMaps(classifier.eval())(view)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch would run it instead
        forward = prepare_network(
            ActivationMaps(classifier), device=CPU, engine="openvino", inference_precision="bf16-mixed"
        ).forward
    assert [answer.shape for answer in forward(view)] == expected


@pytest.mark.parametrize("prepare", [prepare_segmenter, prepare_classifier])
def test_bfloat16_answers_nearly_alike(prepare, views: list[Tensor]):
    ours = prepare("openvino", inference_precision="bf16-mixed")
    torchs = prepare("torch", inference_precision="bf16-mixed")
    with torch.inference_mode():
        for view in views:
            for answer, wanted in zip(ours(view), torchs(view), strict=True):
                assert answer.dtype == wanted.dtype == torch.float32
                assert float((answer - wanted).abs().mean()) < 0.1 * float(wanted.abs().max())


def test_an_answer_is_not_written_over_by_the_next(views: list[Tensor]):
    forward = prepare_segmenter("openvino")
    (first,) = forward(views[0])
    kept = first.clone()
    forward(views[0].flip(-1))
    assert torch.equal(first, kept)


def test_threads_order_and_cores_change_no_number(views: list[Tensor]):
    pictures = [views[n % len(views)] for n in range(20)]
    alone = prepare_segmenter("openvino", threads=1)
    shared = prepare_segmenter("openvino", streams=3, threads=4)
    expected = [alone(view)[0].numpy() for view in pictures]
    with ThreadPoolExecutor(3) as pool:
        found = [maps.numpy() for maps in pool.map(lambda view: shared(view)[0], pictures)]
    backwards = [shared(view)[0].numpy() for view in reversed(pictures)]
    for wanted, one, two in zip(expected, found, reversed(backwards), strict=True):
        np.testing.assert_array_equal(one, wanted)
        np.testing.assert_array_equal(two, wanted)


@pytest.mark.parametrize("first", ["", "import openvino_telemetry; "])
def test_openvino_reports_to_nobody(first: str):
    code = (
        f"import sys; {first}from dsrg import engines; openvino = engines._import_openvino(); "
        "from openvino.tools.ovc import telemetry_utils as used; print(used.tm.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "openvino.tools.ovc.telemetry_stub"


class Fixed(torch.nn.Module):
    """What a trace does not see through: a size that becomes a number."""

    def forward(self, view: Tensor) -> tuple[Tensor]:
        return (view / int(view.shape[-1]),)


class Foreign(torch.nn.Module):
    """An operation that OpenVINO does not know."""

    def forward(self, view: Tensor) -> tuple[Tensor]:
        return (torch.special.gammaln(view),)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("network", [Fixed, Foreign])
def test_torch_runs_what_openvino_cannot(network: type[torch.nn.Module], precision: Any, views: list[Tensor]):
    with pytest.warns(UserWarning, match="OpenVINO cannot run this network as torch does"):
        forward, streams = prepare_network(
            network(), device=CPU, engine="openvino", inference_precision=precision, streams=2
        )
    assert streams == 1, "it has all cores already"
    for view in views:
        torch.testing.assert_close(forward(view)[0], network()(view)[0])


SIGNAL_AFTERWARDS = """
import os, signal, threading, torch
from dsrg.engines import prepare_network
class Double(torch.nn.Module):
    def forward(self, view):
        return (2 * view,)
held = [prepare_network(Double(), device=torch.device("cpu"), engine="openvino", streams=2).forward]
def run():
    held[0](torch.rand(1, 3, 40, 50))
    held.clear()
thread = threading.Thread(target=run)
thread.start()
thread.join()
signal.signal(signal.SIGUSR1, lambda *_: print("alive"))
os.kill(os.getpid(), signal.SIGUSR1)
"""


def test_signals_arrive_after_a_network_was_given_up_in_another_thread():
    # OpenVINO replaces the stack that a thread's signal handlers run on, and may free it (2026.4)
    done = subprocess.run([sys.executable, "-c", SIGNAL_AFTERWARDS], capture_output=True, text=True)
    assert done.returncode == 0, f"{done.returncode}: {done.stderr}"
    assert done.stdout.split() == ["alive"]
