"""Which framework a config file is written for."""

from __future__ import annotations

import ast
import os


def is_detectron2_config(path: str) -> bool:
    """Whether a config file is one of Detectron2: YAML, or Python that imports it.

    Args:
        path: The file. One that is not there is none. One that imports its neighbours
            (``from .base import model``) is what the first of these is that imports a framework.
    """
    return os.path.splitext(path)[1].lower() in (".yaml", ".yml") or "detectron2" in _imports(path)


def _imports(path: str, seen: frozenset[str] = frozenset()) -> set[str]:
    """Names of the packages that a file, or a neighbour that it imports, is made with."""
    path = os.path.realpath(path)
    if path in seen:
        return set()
    try:
        with open(path, "rb") as file:
            tree = ast.parse(file.read())  # by its own declaration of an encoding
    except (OSError, SyntaxError, ValueError, RecursionError):
        return set()
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(part for alias in node.names for part in alias.name.split("."))
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.update((node.module or "").split("."))
        elif isinstance(node, ast.ImportFrom):
            folder = os.path.join(os.path.dirname(path), *[".."] * (node.level - 1))
            modules = [node.module] if node.module else [alias.name for alias in node.names]
            for module in modules:
                file = os.path.join(folder, *module.split(".")) + ".py"
                found |= _imports(file, seen | {path})
    return found
