"""The parts of the report's page as plain values, out of the numbers of a run; nothing is read from disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dsrg.charts import draw_chart
from tasks.plot_rows import LABELS
from tasks.summary import Row, describe_agreement, list_rows

Part = dict[str, Any]
_CURVES = {
    "seed_loss": "seed loss",
    "boundary_loss": "boundary loss",
    "cross_entropy": "cross-entropy",
    "label_loss": "label loss",
    "loss": "total",
}


def describe_headline(found: Mapping[str, Any], summary: Mapping[str, Any], pictures: Part) -> Part:
    """Describe the run by one number, a sentence, and a few more numbers.

    Parameters
    ----------
    found : mapping
        All metrics, as :func:`tasks.summary.read_metrics` reads them.
    summary : mapping
        Of :func:`tasks.summary.summarise_run`.
    pictures : dict
        ``pictures.json`` of the last round; may be empty.

    Returns
    -------
    dict
        ``value``, ``unit``, ``about``, ``sentences``, and ``cards``: value and what it is.
    """
    classifier = summary["classifier"].get("map")
    cards = [("mean average precision of the classifier, val", classifier)]
    if not summary["available"]:
        changed = [one["disagreement"] for one in pictures.get("pictures", [])]
        agreement = 1 - sum(changed) / len(changed) if changed else None
        cues = found["cues"]
        labelled = 1 - cues["unlabelled"] if cues.get("unlabelled") is not None else None
        return {
            "value": _percent(agreement),
            "about": f"of the pixels of {len(changed)} val pictures keep their class under the CRF",
            "sentences": [
                "The source has no true masks, so neither labels nor network can be scored. "
                "Look at the pictures: those where network and CRF agree least come last.",
                *describe_agreement(summary),
            ],
            "cards": [
                *((about, _percent(value)) for about, value in cards),
                ("of the train pixels have a cue", _percent(labelled)),
            ],
        }
    last, scores = list(summary["rounds"].items())[-1]
    val, labels = scores["val"], scores["pseudo_labels"]
    count = found["rounds"][last]["evaluate"]["val"].get("images")
    sentences = []
    if val.get("share_of_reference_crf") is not None:
        sentences.append(
            f"That is {_percent(val['share_of_reference_crf'])} % of what the same network reaches when it "
            "is trained on the true masks."
        )
    gain = summary["gain"]["pseudo_labels_over_cam_crf"]
    if gain is not None:
        points = f"{abs(100 * gain):.1f} points {'over' if gain >= 0 else 'under'}"
        sentences.append(
            f"The pseudo-labels of the train pictures reach {_percent(labels['miou_as_background'])} %, "
            f"{points} CAM + CRF without any training of a segmenter."
        )
    best = max(summary["rounds"], key=lambda key: summary["rounds"][key]["val"]["miou_crf"] or 0.0)
    if best != last:
        better = _percent(summary["rounds"][best]["val"]["miou_crf"])
        sentences.append(f"Round {best} was better: {better} %.")
    sentences += describe_agreement(summary)
    return {
        "value": _percent(val["miou_crf"]),
        "about": f"mIoU of network + CRF on {count} val pictures, round {last}",
        "sentences": sentences,
        "cards": [
            ("mIoU of the network alone, val", _percent(val["miou"])),
            ("mIoU of the pseudo-labels, train", _percent(labels["miou_as_background"])),
            ("mIoU of full supervision + CRF, val", _percent((summary["reference"] or {}).get("miou_crf"))),
            *((about, _percent(value)) for about, value in cards),
        ],
    }


def list_tables(summary: Mapping[str, Any]) -> list[Part]:
    """List the groups of the table of rounds: ``title``, ``rows`` of ``name``, ``cells`` and ``headline``."""
    groups: dict[str, list[Row]] = {"train": [], "val": []}
    for row in list_rows(summary):
        split, _, name = row[0].partition(" ")
        first, _, rest = name.partition(" ")
        shown = f"{rest}, round {first}" if first.isdigit() else name
        groups[split].append((shown, *row[1:]))
    last = list(summary.get("rounds", {"": None}))[-1]
    headline = f"network + CRF, round {last}"
    titles = {"train": "labels of the train pictures", "val": "the network on val pictures"}
    return [
        {"title": titles[split], "rows": [_describe_row(row, headline=headline) for row in rows]}
        for split, rows in groups.items()
        if rows
    ]


def list_classes(found: Mapping[str, Any]) -> list[Part]:
    """List the classes: ``name``, ``pictures`` to train on, IoU of ``network`` and ``labels`` in percent.

    The best of the network come first; without a truth, those with most pictures.
    """
    counts = found["ingest"].get("per_class", {}).get("train", {})
    last = list(found["rounds"].values())[-1]["evaluate"]
    if not last["available"]:
        known = sorted(counts.items(), key=lambda item: -item[1])
        return [{"name": name, "pictures": count, "network": None, "labels": None} for name, count in known]
    network = last["val"]["crf"]["iou"]
    labels = last["train"]["pseudo_labels"]["unlabelled_as_background"]["iou"]
    classes = [
        {
            "name": name,
            "pictures": counts.get(name),
            "network": _scale(network[name]),
            "labels": _scale(labels.get(name)),
        }
        for name in network
    ]
    return sorted(classes, key=lambda one: -(one["network"] if one["network"] is not None else -1.0))


def list_quality(found: Mapping[str, Any]) -> list[Part]:
    """List precision, recall and coverage of labels in percent, from cues to the last pseudo-labels."""
    scored = {key: stages["evaluate"] for key, stages in found["rounds"].items()}
    if not all(scores["available"] for scores in scored.values()):
        return []
    steps = [("cues", found["baseline"]["cues"])]
    steps += [
        (f"{LABELS[kind]}, round {key}", scores["train"][kind])
        for key, scores in scored.items()
        for kind in ("seeds", "pseudo_labels")
    ]
    return [
        {
            "name": name,
            "coverage": _scale(scores["all"]["coverage"]),
            **{
                f"{short}_{measure}": _scale(scores[group][measure])
                for group, short in (("foreground", "fg"), ("background", "bg"))
                for measure in ("precision", "recall")
            },
        }
        for name, scores in steps
    ]


def list_charts(found: Mapping[str, Any]) -> list[Part]:
    """List the charts: ``title``, ``svg``, ``key`` (name and style of each line)."""
    charts = []
    rounds = found["rounds"]
    if found["baseline"].get("available") and len(rounds) > 1:
        charts.append(_chart_rounds(found))
    classifier = found["classify"].get("loss", [])
    curves = [("classifier", {"loss": [(point["step"], point["loss"]) for point in classifier]})]
    curves += [(f"round {key}", _split_losses(stages["train"]["loss"])) for key, stages in rounds.items()]
    for name, lines in curves:
        title = f"Loss by step, {name}"
        charts.append(_chart(title, lines, x_label="step"))
    for key, stages in rounds.items():
        points = stages["train"]["loss"]
        if points and "seed_share" in points[0]:
            # rounding of the numbers kept can leave a hair under 0
            grown = [
                (point["step"], round(100 * (point["seed_share"] - point["cue_share"]), 2))
                for point in points
            ]
            charts.append(
                _chart(f"Pixels that growing adds to the cues, %, round {key}", {"": grown}, x_label="step")
            )
    return [chart for chart in charts if chart["svg"]]


def list_legend(tiles: Sequence[Part], colours: Mapping[str, str]) -> list[tuple[str, str]]:
    """List names and colours of what a picture's tiles hold, in the order of the classes."""
    held = {name for tile in tiles for name, _ in tile["held"] or ()}
    return [(name, colour) for name, colour in colours.items() if name in held]


def say_tile(tile: Part, picture: str) -> str:
    """Say what a tile shows, for those who do not see it."""
    if tile["held"] is None:
        return f"{tile['title']} {'of ' if tile['title'] != 'picture' else ''}{picture}"
    shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in tile["held"][:6])
    return f"{tile['title']} of {picture}: {shares}"


def _describe_row(row: Row, *, headline: str) -> Part:
    return {"name": row[0], "cells": row[1:], "headline": row[0] == headline}


def _chart_rounds(found: Mapping[str, Any]) -> Part:
    rounds = [stages["evaluate"] for stages in found["rounds"].values()]
    lines = {
        "network + CRF, val": [_scale(scores["val"]["crf"]["miou"]) for scores in rounds],
        "network, val": [_scale(scores["val"]["raw"]["miou"]) for scores in rounds],
        "pseudo-labels, train": [
            _scale(scores["train"]["pseudo_labels"]["unlabelled_as_background"]["miou"]) for scores in rounds
        ],
    }
    levels = {"CAM + CRF, train": _scale(found["baseline"]["cam_crf"]["miou"])}
    if found["reference"].get("available"):
        levels["full supervision + CRF, val"] = _scale(found["reference"]["crf"]["miou"])
    names = [f"round {key}" for key in found["rounds"]]
    points = {name: list(enumerate(values)) for name, values in lines.items()}
    chart = _chart("mIoU by round, %", points, levels=levels, names=names, from_zero=False)
    key = [(f"{name} {_spell(level)}", f"l{number}") for number, (name, level) in enumerate(levels.items())]
    return {**chart, "key": chart["key"] + key}


def _chart(title: str, lines: Mapping[str, Any], **options: Any) -> Part:
    key = [(name, f"s{number % 6}") for number, name in enumerate(lines)] if len(lines) > 1 else []
    return {"title": title, "svg": draw_chart(lines, title=title, **options), "key": key}


def _split_losses(points: Sequence[Mapping[str, float]]) -> dict[str, list[tuple[float, float]]]:
    """Split a training's curve into its losses; the sum alone where it has one part."""
    columns = [column for column in _CURVES if points and column in points[0]]
    if len(columns) == 2:
        columns = ["loss"]
    return {_CURVES[column]: [(point["step"], point[column]) for point in points] for column in columns}


def _scale(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _spell(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{100 * value:.1f}"
