"""Names of the annotated things: Cityscapes' objects and CityPersons' persons."""

from __future__ import annotations

from types import MappingProxyType

from blockcopy_plugins.datasets.cityscapes_labels import LABELS, CityscapesLabel

# CityPersons' names for its boxes' content, in the order of the .mat files' class labels 0 to 5.
PERSONS = (
    "ignore",
    "pedestrian",
    "rider",
    "sitting person",
    "person (other)",
    "person group",
)

_BY_NAME = MappingProxyType({label.name: label for label in LABELS})


def label_of(name: str) -> tuple[CityscapesLabel, bool]:
    """Look up an object's label.

    Args:
        name: As in ``polygons.json``; ``'persongroup'`` and similar names are several objects.

    Returns:
        The label, and whether the object is one, not a group.
    """
    if name in _BY_NAME:
        return _BY_NAME[name], True
    return _BY_NAME[name.removesuffix("group")], False
