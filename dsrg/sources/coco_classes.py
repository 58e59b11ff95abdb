"""Classes out of COCO's categories and supercategories."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from dsrg.sources.base import SourceError
from dsrg.sources.coco_json import Category, Instances
from dsrg.sources.lists import check_classes

_MAX_NAMED = 8


@dataclass(frozen=True)
class Grouping:
    """Which categories become which class.

    Attributes
    ----------
    classes : tuple of K str
        By the lowest id of their categories.
    class_ids : dict
        Category id -> class id, from 1. Categories that are not wanted are not in it.
    remarks : tuple of str
    """

    classes: tuple[str, ...]
    class_ids: dict[int, int]
    remarks: tuple[str, ...] = ()


def group_categories(where: str, files: Sequence[Instances], wanted: Sequence[str]) -> Grouping:
    """Group categories into classes.

    Parameters
    ----------
    where : str
        What an error calls the data set.
    files : sequence of Instances
        Must give the same name to the same id.
    wanted : sequence of str
        Names of categories and supercategories; a name that is both means the category, unless all of
        them are its own. Empty: every category that an annotation has.

    Returns
    -------
    Grouping

    Raises
    ------
    SourceError
        The files contradict each other, a name is unknown, or a category would be in two classes.
    """
    categories = _join_categories(where, files)
    if wanted:
        members, remarks = _find_members(where, categories, wanted)
    else:
        used = {annotation.category_id for file in files for annotation in file.annotations}
        members = {category.name: [category.id] for category in categories if category.id in used}
        remarks = _tell_unused([category.name for category in categories if category.id not in used])
    classes = tuple(sorted(members, key=lambda name: members[name][0]))
    check_classes(where, classes)
    class_ids = {key: number for number, name in enumerate(classes, start=1) for key in members[name]}
    return Grouping(classes, class_ids, tuple(remarks))


def _join_categories(where: str, files: Sequence[Instances]) -> list[Category]:
    found: dict[int, tuple[Category, str]] = {}
    problems = []
    for file in files:
        for category in file.categories:
            first, home = found.setdefault(category.id, (category, file.path.name))
            if first.name != category.name:
                problems.append(
                    f"{file.path.name}: category {category.id} is `{category.name}` there, but "
                    f"`{first.name}` in {home}: make them equal"
                )
    categories = [found[key][0] for key in sorted(found)]
    names = [category.name for category in categories]
    problems += [
        f"category name `{name}` has several ids: rename all but one"
        for name in sorted({name for name in names if names.count(name) > 1})
    ]
    if problems:
        raise SourceError(where, problems)
    return categories


def _find_members(
    where: str, categories: Sequence[Category], wanted: Sequence[str]
) -> tuple[dict[str, list[int]], list[str]]:
    """Find the ids behind each wanted name, ascending."""
    by_name = {category.name: [category.id] for category in categories}
    groups: dict[str, list[int]] = {}
    for category in categories:
        if category.supercategory:
            groups.setdefault(category.supercategory, []).append(category.id)
    problems = []
    remarks = []
    members: dict[str, list[int]] = {}
    for name in dict.fromkeys(wanted):
        if name in by_name:
            members[name] = by_name[name]
            if groups.get(name, by_name[name]) != by_name[name]:
                remarks.append(
                    f"`{name}` is a category and a supercategory of {len(groups[name])}: "
                    "the category is taken"
                )
        elif name in groups:
            members[name] = groups[name]
        else:
            near = difflib.get_close_matches(name, [*by_name, *groups], n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"there are {_name_some([*by_name])}"
            problems.append(f"`source.categories` names `{name}`, no category or supercategory: {hint}")
    owners: dict[int, list[str]] = {}
    for name, ids in members.items():
        for key in ids:
            owners.setdefault(key, []).append(name)
    names = {category.id: category.name for category in categories}
    problems += [
        f"`source.categories`: `{names[key]}` would be in {' and '.join(found)}: name only one of them"
        for key, found in owners.items()
        if len(found) > 1
    ]
    if problems:
        raise SourceError(where, problems)
    return members, remarks


def _tell_unused(names: Sequence[str]) -> list[str]:
    if not names:
        return []
    return [f"categories without an annotation are no classes: {_name_some(names)}"]


def _name_some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more
