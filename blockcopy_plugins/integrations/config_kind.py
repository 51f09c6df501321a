"""Which framework a config file is written for."""

from __future__ import annotations

import ast
import os


def is_detectron2_config(path: str) -> bool:
    """Whether a config file is one of Detectron2: YAML, or Python that imports it.

    Args:
        path: The file. One that is not there is none.
    """
    if os.path.splitext(path)[1].lower() in (".yaml", ".yml"):
        return True
    try:
        with open(path, encoding="utf-8") as file:
            tree = ast.parse(file.read())
    except (OSError, SyntaxError, UnicodeDecodeError):
        return False
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
    return any("detectron2" in name.split(".") for name in names)
