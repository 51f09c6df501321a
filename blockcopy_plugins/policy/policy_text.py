"""A policy, guard or motion that a user writes in one line, on a command line or in YAML."""

from __future__ import annotations

import ast
from typing import Any

from ..errors import ConfigError

_EXAMPLES = {
    "policy": ("all", "dict(type='RLPolicy', target=0.3)"),
    "guard": ("SceneCut", "dict(type='MaxAge', frames=60)"),
    "motion": ("CodecMotion", "dict(type='DISMotion', width=320)"),
}


def parse_text(text: str, noun: str) -> str | dict[str, Any]:
    """What a user writes on a command line.

    Args:
        text: A name (``all``) or ``dict(type='RLPolicy', target=0.3)``.
        noun: What it is: ``'policy'``, ``'guard'`` or ``'motion'``.

    Returns:
        The name, or the dict.

    Raises:
        ConfigError: If it is neither.
    """
    name, example = _EXAMPLES[noun]
    text = text.strip()
    if not any(sign in text for sign in "({[="):
        return text  # a name; the code that looks it up lists the known ones
    try:
        node = ast.parse(text, mode="eval").body
        is_dict = isinstance(node, ast.Call) and getattr(node.func, "id", None) == "dict"
        if is_dict and not node.args:
            found = {str(k.arg): ast.literal_eval(k.value) for k in node.keywords}
        else:
            found = ast.literal_eval(node)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        # A ValueError's text shows Python's tree, or where it lies in memory.
        why = "" if isinstance(error, ValueError) else f" ({type(error).__name__}: {error})"
        raise ConfigError(
            f"the {noun} {text!r} cannot be read{why}; write a name such as {name}, or "
            f'"{example}", with plain values.'
        ) from error
    if not isinstance(found, dict) or "type" not in found:
        raise ConfigError(f'the {noun} {text!r} has no type; write "{example}".')
    return found
