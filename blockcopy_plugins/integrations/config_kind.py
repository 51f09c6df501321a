"""Which framework reads a config file; told from the file alone, whatever is installed."""

from __future__ import annotations

import ast
import os


def config_kind(path: str) -> str:
    """The framework that reads a config file: the name of its folder in ``integrations``.

    Args:
        path: The file; it need not exist.

    Returns:
        ``'detectron2'`` for YAML, and for Python that imports Detectron2, itself or through
        neighbours (``from .base import model``); ``'mmengine'`` for all others.
    """
    is_yaml = os.path.splitext(path)[1].lower() in (".yaml", ".yml")
    return "detectron2" if is_yaml or "detectron2" in _imports(path) else "mmengine"


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
