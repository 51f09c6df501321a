"""Which label a class name stands for."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence

from blockcopy_plugins.errors import ConfigError


def check_class_names(classes: Sequence[str]) -> tuple[str, ...]:
    """Names of classes as a tuple.

    Args:
        classes: The names.

    Raises:
        ConfigError: They are a single text, whose letters would be taken for names, or not texts.
    """
    if isinstance(classes, (str, bytes)):
        raise ConfigError(
            f"classes must be a sequence of names, but got the text {classes!r}; write "
            f"classes=({classes!r},) (with the comma)"
        )
    try:
        names = tuple(classes)
    except TypeError:
        names = (None,)
    wrong = [name for name in names if not isinstance(name, str)]
    if wrong:
        raise ConfigError(
            f"classes must be a sequence of names, but got {classes!r}; each name is a text"
        )
    return names


class ClassNames:
    """Finds the label of a name, even if it is spelled slightly differently.

    Upper and lower case, blanks at the ends, and ``traffic_light`` for ``traffic light`` make no
    difference, unless two classes would then be one.

    Args:
        names: Names of the classes by label.

    Raises:
        ConfigError: See `check_class_names`.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = check_class_names(names)
        self._exact = {name: label for label, name in reversed(list(enumerate(self.names)))}
        self._similar: dict[str, set[int]] = defaultdict(set)
        for name, label in self._exact.items():
            self._similar[_bare(name)].add(label)

    def find(self, name: str) -> tuple[int | None, bool]:
        """The label of a name.

        Args:
            name: As an annotation file spells it.

        Returns:
            The label, None if the classes have no such name, and whether the spelling differs.
        """
        if name in self._exact:
            return self._exact[name], False
        similar = self._similar.get(_bare(name), ())
        return (next(iter(similar)), True) if len(similar) == 1 else (None, False)


def _bare(name: str) -> str:
    return re.sub(r"[\s_\-]+", "", unicodedata.normalize("NFKC", name).casefold())
