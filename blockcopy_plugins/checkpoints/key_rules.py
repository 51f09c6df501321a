"""How the names of parameters in one code base map to those in another."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from ..errors import BlockCopyError


class CheckpointError(BlockCopyError, ValueError):
    """A checkpoint cannot be read, or does not have the stated format."""


@dataclass(frozen=True)
class KeyRules:
    r"""Maps each parameter of a source to its target.

    Attributes:
        name: The source's name on a command line, such as ``'pedestron-csp'``.
        description: What it is, and where to get it.
        rules: In order, a regular expression that matches a whole key of the source, and the
            template of the key it becomes (``\1`` is the first group), or None if the parameter is
            left out on purpose. The first match wins. A key that none matches is an error.
        unfilled: Regular expressions of whole target keys that the source does not have, such as
            those of the heads if the source is a backbone.
        model: Name of the model's config in ``configs/_base_/models``, without suffix.
        transform: ``transform(target key, tensor) -> tensor``, called for each parameter that is
            kept, before shapes are compared.
    """

    name: str
    description: str
    rules: tuple[tuple[str, str | None], ...]
    unfilled: tuple[str, ...] = ()
    model: str | None = None
    transform: Callable[[str, Tensor], Tensor] | None = None

    def target_of(self, key: str) -> str | None:
        """The target key of a parameter.

        Args:
            key: The source's key.

        Returns:
            The target's key, None if it is left out on purpose.

        Raises:
            KeyError: If no rule matches.
        """
        for pattern, template in self.rules:
            match = re.fullmatch(pattern, key)
            if match is not None:
                return None if template is None else match.expand(template)
        raise KeyError(key)


def convert_state(
    state: Mapping[str, Tensor], rules: KeyRules, target: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Rename parameters; none may be lost, and none may keep its initial value.

    Args:
        state: The source's.
        rules: The source's.
        target: State dict of the model that will load the result; only its shapes matter.

    Returns:
        A state dict with the target's keys, except those that the rules leave unfilled.

    Raises:
        CheckpointError: Lists all source keys that no rule knows, target keys that are missing,
            unknown or filled twice, and shapes that differ.
    """
    found, problems = match_state(state, rules, target)
    if problems:
        raise CheckpointError(
            f"the checkpoint does not match {rules.name!r} ({rules.description}):\n"
            f"{list_problems(problems)}\n"
            "Name another source format, or the model's config that fits."
        )
    return found


def match_state(
    state: Mapping[str, Tensor], rules: KeyRules, target: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """Rename parameters and collect what does not fit, see :func:`convert_state`.

    Args:
        state: The source's.
        rules: The source's.
        target: State dict of the model that will load the result.

    Returns:
        The renamed parameters, and the keys that do not fit, grouped by problem.
    """
    problems: dict[str, list[str]] = defaultdict(list)
    found: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    for key, tensor in state.items():
        try:
            goal = rules.target_of(key)
        except KeyError:
            problems["unknown keys in the checkpoint"].append(key)
            continue
        if goal is None:
            continue
        if goal in found:
            problems["keys of the model that two others want to fill"].append(
                f"{goal} (by {origin[goal]} and {key})"
            )
            continue
        tensor = tensor if rules.transform is None else rules.transform(goal, tensor)
        found[goal], origin[goal] = tensor, key
        if goal not in target:
            problems["keys that the model does not have"].append(f"{goal} (from {key})")
        elif target[goal].shape != tensor.shape:
            problems["shapes that differ"].append(
                f"{goal}: {tuple(tensor.shape)} (from {key}), the model has "
                f"{tuple(target[goal].shape)}"
            )
    unfilled = [re.compile(pattern) for pattern in rules.unfilled]
    for key in target:
        if key not in found and not any(pattern.fullmatch(key) for pattern in unfilled):
            problems["keys of the model that nothing fills"].append(key)
    return found, dict(problems)


def list_problems(problems: Mapping[str, Iterable[str]]) -> str:
    """Put keys that do not fit into lines.

    Args:
        problems: Keys, grouped by problem.

    Returns:
        The lines, sorted and indented.
    """
    lines = []
    for title, keys in problems.items():
        keys = sorted(keys)
        lines.append(f"  {title} ({len(keys)}):")
        lines += [f"    {key}" for key in keys]
    return "\n".join(lines)
