"""Detects where a checkpoint comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from .formats import Format
from .key_rules import CheckpointError, KeyRules, list_problems, match_state


def detect_format(
    state: Mapping[str, Tensor],
    formats: Sequence[Format],
    target_of: Callable[[Format, KeyRules], Mapping[str, Tensor]],
) -> Format:
    """The one format that a checkpoint fits with all its keys and shapes.

    Args:
        state: The checkpoint's.
        formats: The candidates; those whose framework is not installed are skipped.
        target_of: Gives the state dict of a format's own model; called for formats that know most
            of the keys.

    Returns:
        The format.

    Raises:
        CheckpointError: If none or several fit. It names the nearest ones and what does not fit.
    """
    known = {found: found.rules() for found in formats if found.available}
    unknown = {found: _unknown(state, rules) for found, rules in known.items()}
    fewest = min(unknown.values(), default=len(state))
    if fewest == len(state):
        raise CheckpointError(
            f"no source format knows any of the checkpoint's {len(state)} keys, of which the first "
            f"are {', '.join(sorted(state)[:5])}. Tried: {_names(known) or 'none'}."
        )
    problems = {}
    for candidate in [found for found, keys in unknown.items() if keys == fewest]:
        rules = known[candidate]
        problems[candidate] = match_state(state, rules, target_of(candidate, rules))[1]
    fitting = [found for found, wrong in problems.items() if not wrong]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise CheckpointError(f"the checkpoint fits {_names(fitting)}; name one of them.")
    ranked = sorted(problems, key=lambda found: _count(problems[found]))
    nearest = ", ".join(f"{found.name} ({_count(problems[found])})" for found in ranked)
    raise CheckpointError(
        "the checkpoint fits no source format. The nearest, and how many of its keys or the "
        f"model's do not fit: {nearest}. With {ranked[0].name}:\n"
        f"{list_problems(problems[ranked[0]])}\n"
        "If it belongs to another variant of that network, name the format and give the model's "
        "config."
    )


def _unknown(state: Mapping[str, Tensor], rules: KeyRules) -> int:
    count = 0
    for key in state:
        try:
            rules.target_of(key)
        except KeyError:
            count += 1
    return count


def _names(formats) -> str:
    return ", ".join(found.name for found in formats)


def _count(problems: Mapping[str, Sequence[str]]) -> int:
    return sum(len(keys) for keys in problems.values())
