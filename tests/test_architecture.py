"""What may import what, and how large a file may be.

Imports that only a type checker follows count, too: a type from above makes two files one.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "blockcopy_plugins"
LINES = 450

# Rooms of the engine, the lowest first; a file may import from its own room and from those above it
# in this list. Files of engine/ itself are at the end: they put the rooms together.
ROOMS = ("state", "tensor", "frame", "conv", "strategies", "execution")
# Files of engine/ that any room may import: they import nothing of the rooms.
GROUND = frozenset(
    {"adapter", "call_lock", "composite", "decline", "geometry", "output_parts", "torch_internals"}
)
# Layout says where blocks lie, and tensors ask for it; the counter of MACs is known to users by its
# place.
UPWARD = {
    ("engine.tensor.block_tensor", "engine.frame.layout"),
    ("engine.tensor.frame_of_tensors", "engine.frame.layout"),
    ("engine.execution.frame_run", "engine.macs"),
    ("engine.execution.cuda_graphs", "engine.macs"),
}


def modules() -> dict[str, Path]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, known: dict[str, Path]) -> set[str]:
    """Files of the package that a file imports, at the top, in functions, or for types."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.level:
            parts = package.split(".") if package else []
            parts = parts[: len(parts) - node.level + 1]
            base = ".".join([*parts, node.module] if node.module else parts)
        elif node.module and node.module.split(".")[0] == PACKAGE.name:
            base = node.module.partition(".")[2]
        else:
            continue
        for alias in node.names:
            inside = f"{base}.{alias.name}" if base else alias.name
            found.add(inside if inside in known else base)
    return found - {name, ""}


@pytest.fixture(scope="module")
def edges() -> dict[str, set[str]]:
    known = modules()
    return {name: imports(name, path, known) & known.keys() for name, path in known.items()}


def circles(edges: dict[str, set[str]]) -> list[set[str]]:
    """Sets of files of which each can be reached from each."""

    def reached(start: str, along: dict[str, set[str]]) -> set[str]:
        seen, todo = set(), [start]
        while todo:
            for name in along.get(todo.pop(), ()):
                if name not in seen:
                    seen.add(name)
                    todo.append(name)
        return seen

    back = defaultdict(set)
    for name, targets in edges.items():
        for target in targets:
            back[target].add(name)
    found = []
    for name in edges:
        circle = reached(name, edges) & reached(name, back)
        if len(circle) > 1 and circle not in found:
            found.append(circle)
    return found


def test_a_circle_is_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [{"b", "c"}]
    assert imports("engine.x", modules()["engine.session"], modules()) >= {
        "errors",
        "engine.adapter",
    }


def test_no_files_import_each_other(edges):
    engine = {n: {t for t in targets if t.startswith("engine")} for n, targets in edges.items()}
    assert circles(engine) == []


def test_no_room_imports_from_one_above(edges):
    wrong = []
    for name, targets in edges.items():
        parts = name.split(".")
        if parts[0] != "engine" or len(parts) < 2:
            continue
        room = parts[1] if parts[1] in ROOMS else None
        for target in targets:
            other = target.split(".")
            if other[0] != "engine" or len(other) < 2 or (name, target) in UPWARD:
                continue
            if room is None:
                bad = parts[1] in GROUND and other[1] not in GROUND
            elif other[1] in ROOMS:
                bad = ROOMS.index(other[1]) > ROOMS.index(room)
            else:
                bad = other[1] not in GROUND
            if bad:
                wrong.append(f"{name} imports {target}")
    assert wrong == []


def test_the_oracle_knows_nothing_of_execution(edges):
    """What checks the engine must not be made of it.

    But for where blocks end, in pixels (``geometry``), in views (``axes``) and in dense tensors
    (``dense_map``): that is no matter of right or wrong.
    """
    allowed = {"errors", "engine.adapter", "engine.composite", "engine.torch_internals"}
    allowed |= {"engine.geometry", "engine.tensor.dense_map"}
    allowed |= {"engine.tensor.axes", "engine.tensor.axes_rules"}
    found = {t for n, targets in edges.items() if n.startswith("engine.oracle.") for t in targets}
    assert {t for t in found if not t.startswith("engine.oracle")} <= allowed


def test_private_names_of_torch_are_in_one_file():
    wrong = []
    for path in (PACKAGE / "engine").rglob("*.py"):
        if path.name == "torch_internals.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torch"):
                parts = [*node.module.split("."), *(alias.name for alias in node.names)]
            elif isinstance(node, ast.Attribute) and (
                node.attr in PRIVATE or ast.unparse(node).startswith("torch._")
            ):
                parts = [node.attr]
            else:
                continue
            if any(p.startswith("_") and p != "_BatchNorm" for p in parts):
                wrong.append(f"{path.relative_to(PACKAGE)}:{node.lineno} {parts}")
    assert wrong == []


PRIVATE = frozenset(
    {
        "_C",
        "_schema",
        "_overloadpacket",
        "_op_dk",
        "_make_wrapper_subclass",
        "_make_subclass",
        "_version",
        "_forward_hooks",
        "_forward_pre_hooks",
        "_compiled_call_impl",
    }
)


def test_no_file_is_too_large():
    sizes = {p.relative_to(PACKAGE).as_posix(): p for p in PACKAGE.rglob("*.py")}
    large = {name for name, p in sizes.items() if len(p.read_text().splitlines()) > LINES}
    assert large == set()
