"""What a dataset's arguments say about its classes and labels."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from mmengine.registry import DATASETS as MMENGINE_DATASETS

from blockcopy_plugins.datasets.ground_truth.class_names import check_class_names
from blockcopy_plugins.datasets.ground_truth.label_images import LabelRules
from blockcopy_plugins.errors import ConfigError


def label_rules_of(
    given: Mapping[str, Any] | None, metainfo: Mapping[str, Any] | str | None
) -> LabelRules:
    """How label images are named and read.

    Args:
        given: Fields of `LabelRules` that differ from the dataset's.
        metainfo: The dataset's metainfo, or its name.

    Raises:
        ConfigError: If a field or the dataset is unknown.
    """
    known = [field.name for field in fields(LabelRules)]
    unknown = sorted(set(given or {}) - set(known))
    if unknown:
        raise ConfigError(
            f"label_rules has no key {', '.join(unknown)}; its keys are {', '.join(known)}"
        )
    dataset = _named_dataset(metainfo) if isinstance(metainfo, str) else None
    return LabelRules.of(dataset, given or {})


def find_metainfo(
    metainfo: Mapping[str, Any] | str | None, classes: Sequence[str] | None
) -> dict[str, Any] | None:
    """The metainfo that a dataset's arguments give.

    Args:
        metainfo: The metainfo, or the name of a registered dataset to take it from.
        classes: Names of the classes, instead of those in ``metainfo``.

    Raises:
        ConfigError: If the dataset is unknown, or ``classes`` is a string.
    """
    if isinstance(metainfo, str):
        metainfo = _named_dataset(metainfo).METAINFO
    found = dict(metainfo) if metainfo is not None else {}
    if classes is not None:
        found["classes"] = classes
    if found.get("classes") is not None:
        # MMEngine reads a file of names, one per line.
        given = found["classes"]
        if not (isinstance(given, str) and os.path.isfile(given)):
            found["classes"] = check_class_names(given)
    return found or None


def _named_dataset(name: str) -> type:
    dataset = MMENGINE_DATASETS.get(name)
    if dataset is None or not hasattr(dataset, "METAINFO"):
        raise ConfigError(
            f"metainfo={name!r} is not a registered dataset with METAINFO; name one with scope, "
            "such as 'mmdet.CocoDataset', or give dict(classes=...)"
        )
    return dataset
