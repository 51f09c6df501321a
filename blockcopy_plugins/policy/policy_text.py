"""A policy, guard or motion that a user writes in one line, on a command line or in YAML."""

from __future__ import annotations

import ast
from typing import Any

from ..errors import ConfigError


def parse_policy(text: str) -> str | dict[str, Any]:
    """A policy as written on a command line.

    Args:
        text: A name (``all``) or ``dict(type='RLPolicy', target=0.3)``.

    Returns:
        The name, or the dict.

    Raises:
        ConfigError: If it is neither.
    """
    return _parse(text, "policy", "all", "dict(type='RLPolicy', target=0.3)")


def parse_guard(text: str) -> str | dict[str, Any]:
    """A guard as written on a command line.

    Args:
        text: A name (``SceneCut``) or ``dict(type='MaxAge', frames=60)``.

    Returns:
        The name, or the dict.

    Raises:
        ConfigError: If it is neither.
    """
    return _parse(text, "guard", "SceneCut", "dict(type='MaxAge', frames=60)")


def parse_motion(text: str) -> str | dict[str, Any]:
    """An estimate of motion as written on a command line.

    Args:
        text: A name (``CodecMotion``) or ``dict(type='DISMotion', width=320)``.

    Returns:
        The name, or the dict.

    Raises:
        ConfigError: If it is neither.
    """
    return _parse(text, "motion", "CodecMotion", "dict(type='DISMotion', width=320)")


def _parse(text: str, noun: str, name: str, example: str) -> str | dict[str, Any]:
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
    except (SyntaxError, ValueError) as error:
        raise ConfigError(
            f"the {noun} {text!r} cannot be read ({error}); write a name such as {name}, or "
            f'"{example}".'
        ) from error
    if not isinstance(found, dict) or "type" not in found:
        raise ConfigError(f'the {noun} {text!r} has no type; write "{example}".')
    return found
