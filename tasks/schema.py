"""What may stand in ``params.yaml``: every key, its type, its range and what it does.

Nothing has a default here: ``params.yaml`` holds every value. Stages unpack what they need;
:mod:`dsrg` never sees these classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from tasks.workspace import NO_STORES

SYNTHETIC_PATH = "dsrg/sources/synthetic.py"
NO_CLUSTER = "none"
BACKBONES = ("efficientnet_lite0", "efficientnet_lite2", "vgg16", "resnet50", "resnet101")


def _check_backbone(name: str) -> str:
    if name in BACKBONES or (name.startswith("timm:") and len(name) > len("timm:")):
        return name
    raise ValueError(f"must be one of {', '.join(BACKBONES)} or `timm:NAME`")


def _check_scales(scales: tuple[float, ...]) -> tuple[float, ...]:
    if len(set(scales)) != len(scales):
        raise ValueError("must not name a scale twice")
    return scales


Probability = Annotated[float, Field(gt=0, lt=1)]
Rate = Annotated[float, Field(gt=0, le=10)]
Scale = Annotated[float, Field(ge=0.1, le=8)]
Scales = Annotated[tuple[Scale, ...], Field(strict=False, min_length=1), AfterValidator(_check_scales)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
Stride = Literal[8, 16, 32]


class Section(BaseModel):
    """One block of ``params.yaml``: all keys required, no other key allowed, nothing converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Crf(Section):
    """A fully-connected CRF; positions in pixels of the map it works on."""

    iterations: int = Field(ge=1, le=100, description="mean-field iterations")
    bilateral_weight: float = Field(ge=0, le=1000, description="weight of the appearance kernel")
    bilateral_xy: float = Field(gt=0, le=1000, description="its reach in pixels")
    bilateral_rgb: float = Field(gt=0, le=255, description="its reach in grey levels")
    gaussian_weight: float = Field(ge=0, le=1000, description="weight of the smoothness kernel")
    gaussian_xy: float = Field(gt=0, le=1000, description="its reach in pixels")
    solver: Literal["lattice", "pydensecrf"] = Field(description="which code; equal but for rounding")

    @property
    def in_threads(self) -> bool:
        """Whether pictures may be refined in threads: pydensecrf keeps the interpreter's lock."""
        return self.solver != "pydensecrf"


class TrainingCrf(Crf):
    """The CRF inside training; positions in cells of the network's grid."""

    solver: Literal["auto", "lattice", "dense", "pydensecrf"] = Field(  # type: ignore[assignment]
        description="which code; all pairs on a GPU are exact, the others approximate"
    )


# what concerns one kind of source only, as it is where that kind is not
OF_ONE_KIND: dict[str, Any] = {"image_labels": "xml", "categories": []}


class Source(Section):
    """Where the pictures come from."""

    kind: Literal["synthetic", "folder", "voc", "coco"] = Field(
        description="how pictures and labels are read"
    )
    path: str = Field(min_length=1, description="folder of pictures, or the generator's own file")
    image_labels: Literal["xml", "masks"] = Field(description="voc: what image labels are taken from")
    categories: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        description="coco: categories or supercategories to learn; none named: all"
    )
    num_train: int = Field(ge=1, le=1_000_000, description="synthetic: pictures to train on")
    num_val: int = Field(ge=1, le=1_000_000, description="synthetic: pictures to score on")
    size: int = Field(ge=64, le=2048, description="synthetic: side of a picture in pixels")
    random_seed: Seed = Field(description="synthetic: which pictures are drawn")

    @property
    def name(self) -> str:
        """Name of the data set: ``synthetic`` or the folder's."""
        return "synthetic" if self.kind == "synthetic" else Path(self.path).name

    @model_validator(mode="after")
    def _check_path(self) -> Source:
        if self.kind == "synthetic" and self.path != SYNTHETIC_PATH:
            raise ValueError(f"`path` must be {SYNTHETIC_PATH} where `kind` is synthetic, got {self.path!r}")
        if self.path.startswith("~"):
            raise ValueError(f"`path` must be written out, got {self.path!r}: run `dsrg run {self.path}`")
        if self.image_labels == "masks" and self.kind != "voc":
            raise ValueError(
                f"`image_labels` must be xml where `kind` is {self.kind}: masks are for voc only"
            )
        if self.categories and self.kind != "coco":
            raise ValueError(f"`categories` must be [] where `kind` is {self.kind}: they are for coco only")
        return self


class Ingest(Section):
    """Pictures into one store."""

    canvas: int = Field(ge=64, le=2048, multiple_of=32, description="side of the canvas in pixels")
    strict: bool = Field(description="refuse pictures without a row or without a class")
    near_duplicate_bits: int = Field(ge=0, le=32, description="perceptual-hash distance still called equal")
    val_fraction: float = Field(gt=0, lt=1, description="share held back where the source has no split")


class Backbone(Section):
    """The trunk of classifier and segmenter."""

    name: Annotated[str, AfterValidator(_check_backbone)] = Field(description="which network")
    weights: str = Field(min_length=1, description="imagenet, none, or a file of weights")


class Classify(Section):
    """The classifier whose attention becomes CAMs."""

    output_stride: Stride = Field(description="pixels per grid cell")
    crop_size: int = Field(ge=32, le=1024, description="side of a training crop in pixels")
    epochs: int = Field(ge=1, le=1000, description="passes over the training pictures")
    min_steps: int = Field(ge=1, le=1_000_000, description="optimizer steps at least, for few pictures")
    batch_size: int = Field(ge=1, le=1024, description="pictures per step")
    lr: Rate = Field(description="learning rate of the trunk")
    head_lr_multiplier: float = Field(gt=0, le=1000, description="learning rate of new layers over lr")
    weight_decay: float = Field(ge=0, le=1, description="weight decay")
    clip_norm: float = Field(ge=0, le=1e6, description="largest norm of a step's gradients; 0 = no limit")
    min_scale: float = Field(gt=0, le=1, description="smallest share of a picture's area in a crop")
    random_seed: Seed = Field(description="order, crops and initial weights")


class Cams(Section):
    """Class activation maps."""

    output_stride: Stride = Field(description="pixels per grid cell")
    size: int = Field(ge=32, le=2048, description="long side of a picture at scale 1, in pixels")
    scales: Scales = Field(description="input scales that are averaged")
    flip: bool = Field(description="average with the mirrored picture")
    normalisation: Literal["max"] = Field(description="each map is divided by its largest value")
    affinity_power: float = Field(ge=0, le=64, description="spread over cells that look alike; 0 = off")


class Cues(Section):
    """Trusted pixels out of CAMs."""

    rule: Literal["agreement", "threshold"] = Field(description="how pixels are chosen")
    fg_threshold: Probability = Field(description="rule threshold: foreground over this")
    bg_threshold: Probability = Field(description="rule threshold: background under this")
    exponent: float = Field(ge=0, le=32, description="rule agreement: background (1 - CAM)^this; 0 = by Otsu")
    spread: float = Field(
        ge=1, le=16, description="rule agreement: generous = exponent * this, strict = / this"
    )
    background: Literal["cam", "saliency"] = Field(description="what background cues are taken from")
    saliency_threshold: Probability = Field(description="background saliency: background under this")
    crf: Crf = Field(description="sharpens the CAMs before they must agree")


class Train(Section):
    """The segmenter, round 1."""

    init: Literal["classifier", "imagenet"] = Field(description="what the trunk starts from")
    output_stride: Stride = Field(description="pixels per grid cell")
    crop_size: int = Field(ge=32, le=1024, multiple_of=8, description="side of a training crop in pixels")
    epochs: int = Field(ge=1, le=1000, description="passes over the training pictures")
    min_steps: int = Field(ge=1, le=1_000_000, description="optimizer steps at least, for few pictures")
    batch_size: int = Field(ge=1, le=1024, description="pictures per step")
    lr: Rate = Field(description="learning rate of the trunk at the first step")
    head_lr_multiplier: float = Field(gt=0, le=1000, description="learning rate of new layers over lr")
    momentum: float = Field(ge=0, lt=1, description="SGD momentum")
    weight_decay: float = Field(ge=0, le=1, description="weight decay")
    clip_norm: float = Field(ge=0, le=1e6, description="largest norm of a step's gradients; 0 = no limit")
    poly_power: float = Field(ge=0, le=10, description="lr falls as (1 - step/steps)^this")
    min_scale: Scale = Field(description="smallest random scale of a picture")
    max_scale: Scale = Field(description="largest random scale of a picture")
    aspp_channels: int = Field(ge=1, le=4096, description="channels per atrous branch")
    aspp_rates: Annotated[tuple[Annotated[int, Field(ge=1, le=96)], ...], Field(strict=False)] = Field(
        min_length=1, description="dilation of each atrous branch, in grid cells"
    )
    aspp_separable: bool = Field(description="depthwise-separable branches: faster on CPU")
    skip_channels: int = Field(
        ge=0,
        le=1024,
        description="width of the shallow branch that sharpens edges; 0 = none, as in the paper",
    )
    dropout: float = Field(ge=0, lt=1, description="dropout before the class layer")
    logit_adjustment: float = Field(
        ge=0, le=1, description="how far foreground and background follow the cues' shares"
    )
    boundary_weight: float = Field(ge=0, le=100, description="weight of the boundary loss")
    grow_on: Literal["probs", "refined", "none"] = Field(
        description="grow seeds by network or CRF output, or not at all"
    )
    fg_threshold: Probability = Field(description="growing: foreground joins over this")
    bg_threshold: Probability = Field(description="growing: background joins over this")
    crf: TrainingCrf = Field(description="CRF inside the training step, on the network's grid")
    random_seed: Seed = Field(description="order, crops and initial weights")
    checkpoint_every: int = Field(ge=1, le=1_000_000, description="steps between checkpoints")

    @model_validator(mode="after")
    def _check_scale_order(self) -> Train:
        if self.min_scale > self.max_scale:
            raise ValueError(
                f"`min_scale` must be at most `max_scale`, got {self.min_scale} and {self.max_scale}"
            )
        return self


class Retrain(Section):
    """What is different in rounds 2 and later; the rest is as in round 1."""

    epochs: int = Field(ge=1, le=1000, description="passes over the training pictures")
    min_steps: int = Field(ge=1, le=1_000_000, description="optimizer steps at least, for few pictures")
    lr: Rate = Field(description="learning rate of the trunk at the first step")
    init: Literal["previous", "imagenet"] = Field(description="weights a round starts from")
    balance: Literal["none", "picture"] = Field(
        description="cross-entropy of all pixels, or foreground and background each by its mean"
    )
    boundary_weight: float = Field(ge=0, le=100, description="weight of the boundary loss")


class Relabel(Section):
    """Region growing over the training pictures."""

    scales: Scales = Field(description="input scales that are averaged")
    flip: bool = Field(description="average with the mirrored picture")
    fg_threshold: Probability = Field(description="growing: foreground joins over this")
    bg_threshold: Probability = Field(description="growing: background joins over this")


class Refine(Section):
    """Grown seeds and probabilities into pseudo-labels."""

    seed_weight: float = Field(ge=0, le=1, description="how much a seed counts against the probabilities")
    min_confidence: float = Field(ge=0, lt=1, description="less certain pixels stay unlabelled")
    crf: Crf = Field(description="CRF at picture size")


class Evaluate(Section):
    """Scores and panels."""

    scales: Scales = Field(description="input scales that are averaged")
    flip: bool = Field(description="average with the mirrored picture")
    crf_adjustment: float = Field(
        ge=0, le=1, description="how far the CRF leans to the rarer of foreground and background"
    )
    crf: Crf = Field(description="CRF at picture size")


class Reference(Section):
    """The same network trained on the true masks, to compare with."""

    enabled: bool = Field(description="train the same network on the true masks, to compare with")


class Report(Section):
    """Tables and pictures of a whole run."""

    panels: int = Field(ge=0, le=64, description="how many pictures are drawn in panels")


class Compute(Section):
    """Machine matters; no stage is run again because of them."""

    device: Literal["auto", "cpu", "cuda"] = Field(description="where networks run")
    devices: int = Field(
        ge=1, le=64, description="that train together, a process each; batches are shared out"
    )
    nodes: int = Field(
        ge=1, le=64, description="machines that train together, each with so many devices: docs/cluster.md"
    )
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = Field(description="number format of training")
    inference_precision: Literal["32-true", "bf16-mixed"] = Field(
        description="number format of networks that are trained"
    )
    engine: Literal["openvino", "torch"] = Field(description="what runs networks that are trained, on a CPU")
    workers: int = Field(ge=0, le=1024, description="pictures worked on at a time; 0 = all cores")
    cluster: str = Field(
        pattern=rf"^({NO_CLUSTER}|local|[a-z+]+://\S+)$",
        description="who maps over shards: none = this process and its own; local or tcp://HOST:PORT = Dask",
    )
    stores: str = Field(
        pattern=rf"^({NO_STORES}|[a-z][a-z0-9+.-]*://\S+)$",
        description="where Zarr stores lie: none = below data/; s3://BUCKET/FOLDER or another URL = there",
    )


class Round(Section):
    """One round, as :func:`expand_rounds` writes it."""

    prev: str = Field(description="cues, or the round before")
    labels: str = Field(description="store of labels it trains on")
    weights: str = Field(description="file of weights it may start from")
    schedule: Literal["train", "retrain"] = Field(description="block of params with its epochs and lr")


class Params(Section):
    """All of ``params.yaml``."""

    source: Source
    ingest: Ingest
    backbone: Backbone
    classify: Classify
    cams: Cams
    cues: Cues
    rounds: dict[str, Round]
    final_round: str = Field(description="the last of `rounds`; dvc.yaml names the run's model by it")
    train: Train
    retrain: Retrain
    relabel: Relabel
    refine: Refine
    evaluate: Evaluate
    reference: Reference
    report: Report
    compute: Compute

    @model_validator(mode="after")
    def _check_rounds(self) -> Params:
        expected = expand_rounds(len(self.rounds))
        found = {key: value.model_dump() for key, value in self.rounds.items()}
        if not found:
            raise ValueError("`rounds` must hold at least one round: run `dsrg rounds 1`")
        if found != expected:
            wrong = [key for key in {**expected, **found} if found.get(key) != expected.get(key)]
            raise ValueError(
                f"`rounds` must be a chain '1', '2', … each naming the one before; wrong: "
                f"{', '.join(repr(key) for key in wrong)}: run `dsrg rounds {len(found)}`"
            )
        if self.final_round != self.round_keys[-1]:
            raise ValueError(
                f"`final_round` must be the last of `rounds`, {self.round_keys[-1]!r}, got "
                f"{self.final_round!r}: run `dsrg rounds {len(found)}`"
            )
        return self

    @property
    def round_keys(self) -> tuple[str, ...]:
        """Round keys in order: ``('1', '2', ...)``."""
        return tuple(self.rounds)


def expand_rounds(count: int) -> dict[str, dict[str, str]]:
    """Expand a number of rounds into the chain that ``dvc.yaml`` iterates over.

    Examples
    --------
    >>> expand_rounds(2)["2"]["labels"]
    'data/rounds/1/pseudo_labels.zarr'
    """
    first = {
        "prev": "cues",
        "labels": "data/cues.zarr",
        "weights": "data/classifier.safetensors",
        "schedule": "train",
    }
    rounds = {"1": first} if count > 0 else {}
    for number in range(2, count + 1):
        before = f"data/rounds/{number - 1}"
        rounds[str(number)] = {
            "prev": str(number - 1),
            "labels": f"{before}/pseudo_labels.zarr",
            "weights": f"{before}/segmenter.safetensors",
            "schedule": "retrain",
        }
    return rounds
