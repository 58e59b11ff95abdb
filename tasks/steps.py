"""How many optimizer steps each training takes."""

from __future__ import annotations

from tasks.params import Params


def count_steps(epochs: float, pictures: int, batch_size: int, *, least: int = 1) -> int:
    """Count the steps of so many passes over the pictures; at least `least`, however few they are."""
    return max(least, round(epochs * pictures / batch_size))


def count_classify_steps(params: Params, pictures: int) -> int:
    """Count the classifier's steps on so many training pictures."""
    settings = params.classify
    return count_steps(settings.epochs, pictures, settings.batch_size, least=settings.min_steps)


def count_train_steps(params: Params, key: str, pictures: int) -> int:
    """Count the segmenter's steps in round `key` on so many training pictures."""
    if params.rounds[key].schedule == "train":
        epochs, least = params.train.epochs, params.train.min_steps
    else:
        epochs, least = params.retrain.epochs, params.retrain.min_steps
    return count_steps(epochs, pictures, params.train.batch_size, least=least)


def count_reference_steps(params: Params, pictures: int) -> int:
    """Count the steps that lead to the last round's weights: the reference takes as many.

    Parameters
    ----------
    params : Params
    pictures : int
        All training pictures, with masks or without.
    """
    keys = params.round_keys
    if params.retrain.init == "imagenet":
        keys = keys[-1:]
    return sum(count_train_steps(params, key, pictures) for key in keys)
