"""What the ablation compares: each row is a change of params, and the row that it is measured against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tasks.errors import UserError

DEFAULT = "boundary"  # the first round of params.yaml, at the size of the bench
_DECIDES_CAMS = ("backbone.", "classify.", "cams.")


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes
    ----------
    name : str
        Short, the same in files, in MLflow's tag ``bench.row`` and on the command line.
    about : str
        What is different, for the table.
    against : str
        The row that it differs from in this one thing; empty for the first.
    changes : mapping
        Dotted params and their values, over ``params.yaml`` and the size of the bench.
    scaled : mapping
        Dotted params that are multiplied: lengths, which depend on the size of the bench.
    rounds : int
        How many rounds are run; the row's numbers are those of the last.
    group : str
        Under which heading the table shows it. Those of ``single`` are measured with one seed.
    """

    name: str
    about: str
    against: str = DEFAULT
    changes: Mapping[str, Any] = field(default_factory=dict)
    scaled: Mapping[str, float] = field(default_factory=dict)
    rounds: int = 1
    group: str = "ideas"

    @property
    def has_reference(self) -> bool:
        """Whether the reference trains the same network."""
        return self.group != "reference" and "backbone.name" not in self.changes

    @property
    def scores_cams(self) -> bool:
        """Whether the CAMs are scored too: those of the first row, and where they are others."""
        changed = (*self.changes, *self.scaled)
        return self.name == DEFAULT or any(key.startswith(_DECIDES_CAMS) for key in changed)


# One added to the other, as in the paper's own ablation; the CRF is a column of every row.
CHAIN = (
    Row(
        "cues",
        "cues only",
        against="",
        changes={"train.grow_on": "none", "train.boundary_weight": 0.0},
        group="chain",
    ),
    Row("growing", "+ growing", against="cues", changes={"train.boundary_weight": 0.0}, group="chain"),
    Row("boundary", "+ boundary loss = round 1", against="growing", group="chain"),
    Row("round-2", "+ round 2", against="boundary", rounds=2, group="chain"),
    Row("round-3", "+ round 3", against="round-2", rounds=3, group="chain"),
)

# The official method as far as params can say it (presets/paper-vgg16.yaml), on the same network and size.
OFFICIAL = Row(
    "official",
    "official settings, same network",
    against="round-2",
    rounds=2,
    group="official",
    changes={
        "cams.scales": [1.0],
        "cams.flip": False,
        "cams.affinity_power": 0.0,
        "cues.rule": "threshold",
        "cues.fg_threshold": 0.2,
        "train.init": "imagenet",
        "train.skip_channels": 0,
        "train.min_scale": 0.64,
        "train.max_scale": 1.0,
        "train.logit_adjustment": 0.0,
        "train.grow_on": "refined",
        "retrain.balance": "none",
        "train.crf.bilateral_xy": 6.67,
        "train.crf.gaussian_xy": 0.25,
        "relabel.flip": False,
        "refine.seed_weight": 0.0,
        "refine.crf.bilateral_weight": 10.0,
        "refine.crf.bilateral_rgb": 13.0,
        "evaluate.flip": False,
        "evaluate.crf_adjustment": 0.0,
        "evaluate.crf.bilateral_weight": 10.0,
        "evaluate.crf.bilateral_rgb": 13.0,
    },
    scaled={"refine.crf.bilateral_xy": 80 / 49, "evaluate.crf.bilateral_xy": 80 / 49},
)

# One thing changed in round 1, or in round 2 where round 1 would not show it.
IDEAS = (
    Row("larger-trunk", "EfficientNet-Lite2, not Lite0", changes={"backbone.name": "efficientnet_lite2"}),
    Row("classify-short", "classifier trained for 6 epochs only", changes={"classify.min_steps": 1}),
    Row("classify-long", "classifier trained for 200 steps at least", changes={"classify.min_steps": 200}),
    Row("no-growing", "cues that do not grow in training", changes={"train.grow_on": "none"}),
    Row("cams-smaller", "CAMs at 1 and 1.5 times, not 1.2 and 1.8", changes={"cams.scales": [1.0, 1.5]}),
    Row(
        "cams-three-scales",
        "CAMs at 0.75, 1 and 1.25 times, not 1.2 and 1.8",
        changes={"cams.scales": [0.75, 1.0, 1.25]},
        group="single",
    ),
    Row("cams-wider", "CAMs at 1 and 2 times, not 1.2 and 1.8", changes={"cams.scales": [1.0, 2.0]}),
    Row("cams-larger", "CAMs at 1.4 and 2.1 times, not 1.2 and 1.8", changes={"cams.scales": [1.4, 2.1]}),
    Row(
        "cams-one-view", "CAMs at one scale, not mirrored", changes={"cams.scales": [1.0], "cams.flip": False}
    ),
    Row(
        "cams-finer", "CAMs on a grid of 8 pixels, not 16", changes={"cams.output_stride": 8}, group="single"
    ),
    Row("no-affinity", "CAMs not spread over look-alike cells", changes={"cams.affinity_power": 0.0}),
    Row("threshold-cues", "cues by thresholds, not by agreement", changes={"cues.rule": "threshold"}),
    Row("imagenet-init", "trunk from ImageNet, not from the classifier", changes={"train.init": "imagenet"}),
    Row("no-skip", "no shallow branch in the network", changes={"train.skip_channels": 0}),
    Row("no-adjustment", "balanced loss as published", changes={"train.logit_adjustment": 0.0}),
    Row(
        "full-adjustment",
        "loss balanced not at all",
        changes={"train.logit_adjustment": 1.0},
        group="single",
    ),
    Row("grow-on-refined", "growing on the CRF's output", changes={"train.grow_on": "refined"}),
    Row(
        "plain-crf",
        "the CRF at the end as published, leaning to neither side",
        changes={"evaluate.crf_adjustment": 0.0},
    ),
    Row(
        "official-crf",
        "the official CRF at the end",
        changes={
            "evaluate.crf_adjustment": 0.0,
            "evaluate.crf.bilateral_weight": 10.0,
            "evaluate.crf.bilateral_rgb": 13.0,
        },
        scaled={"evaluate.crf.bilateral_xy": 80 / 49},
    ),
    Row(
        "three-scales",
        "val at three scales, not one",
        changes={"evaluate.scales": [0.75, 1.0, 1.25]},
        group="single",
    ),
    Row(
        "cross-entropy",
        "round 2 by cross-entropy as published",
        against="round-2",
        rounds=2,
        changes={"retrain.balance": "none"},
    ),
    Row(
        "no-seed-weight",
        "round 2 from labels that seeds do not count in",
        against="round-2",
        rounds=2,
        changes={"refine.seed_weight": 0.0},
    ),
    Row(
        "sure-labels",
        "round 2 from pixels of at least 0.7",
        against="round-2",
        rounds=2,
        changes={"refine.min_confidence": 0.7},
        group="single",
    ),
    Row(
        "train-long",
        "segmenter trained for 240 and 120 steps, as params.yaml has it",
        against="round-2",
        rounds=2,
        changes={"train.min_steps": 240, "retrain.min_steps": 120},
    ),
    Row(
        "fresh-round-2",
        "round 2 from ImageNet, as long as round 1",
        against="round-2",
        rounds=2,
        changes={"retrain.init": "imagenet", "retrain.epochs": 8},
        group="single",
    ),
)

REFERENCE = Row("reference", "the same network on the true masks", against="", rounds=2, group="reference")

ROWS = (*CHAIN, OFFICIAL, *IDEAS)
GROUPS = {
    "chain": "one added to the other",
    "official": "",
    "ideas": "each alone",
    "single": "each alone, one seed",
    "reference": "full supervision",
}


def list_jobs(rows: Sequence[Row], seeds: Sequence[int]) -> list[tuple[int, list[Row]]]:
    """List seeds with their rows in order: those of ``single`` have the first only; no seed without rows."""
    jobs = [(seed, [row for row in rows if row.group != "single" or seed == seeds[0]]) for seed in seeds]
    return [(seed, own) for seed, own in jobs if own]


def choose_rows(names: Sequence[str]) -> list[Row]:
    """Choose rows by name or group; ``all`` are all.

    Raises
    ------
    UserError
        There is no such row.
    """
    everything = [*ROWS, REFERENCE]
    if "all" in names:
        return everything
    known = {row.name for row in everything} | set(GROUPS)
    unknown = sorted(set(names) - known)
    if unknown:
        raise UserError(f"`--rows` must be of {', '.join(sorted(known))}, got {unknown[0]!r}")
    return [row for row in everything if row.name in names or row.group in names]
