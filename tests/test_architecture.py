"""What may import what, and how large a file may be.

Imports in functions and those that only a type checker follows count, too: a type from above makes
two files one.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "blockcopy_plugins"
LINES = 450

# The lowest first: a file imports from its own room and from those in lines above, and from its
# neighbours in a line not at all. A room is a folder, or a file beside the folders.
LAYERS = (
    ("errors", "addresses", "allocator", "damaged_files", "default_tensors", "host_transfer"),
    ("shared_copy",),
    ("image_names", "part_files"),
    ("file_protection", "registry"),
    ("ops",),
    ("policy",),
    ("propagation",),
    ("engine",),
    ("options", "checkpoints", "visualization"),
    ("datasets",),
    ("evaluation", "models"),
    ("integrations.config_kind", "integrations.mmcv_ops"),
    ("integrations.framework",),
    ("api",),
    ("integrations.common",),
    ("integrations.mmengine", "integrations.detectron2"),
    ("integrations",),  # the folders of all other frameworks
    ("estimate",),
    ("",),  # the package's own __init__
    ("info",),
)
# The config is the engine's, and stands where users look for it.
SAME_ROOM = {"config": "engine"}

# The same inside the engine; files of engine/ itself come last: they put the rooms together.
ENGINE = ("state", "tensor", "frame", "conv", "strategies", "execution")
# Files of engine/ that any of its rooms may import: they import nothing of the rooms.
GROUND = frozenset(
    {
        "adapter",
        "call_lock",
        "composite",
        "decline",
        "geometry",
        "module_state",
        "output_parts",
        "torch_internals",
    }
)
# Layout says where blocks lie, and tensors ask for it; the counter of MACs is known to users by its
# place.
UPWARD = {
    ("engine.state.lent_map", "engine.frame.layout"),
    ("engine.tensor.block_tensor", "engine.frame.layout"),
    ("engine.tensor.frame_of_tensors", "engine.frame.layout"),
    ("engine.execution.frame_run", "engine.macs"),
    ("engine.execution.cuda_graphs", "engine.macs"),
}

# What a room may import of other people's, anywhere; in functions alone where it is said so.
TORCH_ALONE = ("ops", "engine", "options", "api", "host_transfer", "default_tensors", "shared_copy")
IN_FUNCTIONS = {
    "policy": {"cv2", "PIL"},  # masks of zones, background subtraction
    "propagation": {"cv2", "numpy"},  # optical flow on small pictures
}
# A folder of an integration imports the package that it is called as; some import more.
ALSO = {
    "mmengine": {"mmdet"},
    "mmdet": {"mmengine", "mmcv"},
    "mmseg": {"mmengine"},
    "detectron2": {"omegaconf", "torchvision"},
    "ultralytics": {"torchvision"},
}
FOLDERS = sorted(p.parent.name for p in (PACKAGE / "integrations").glob("*/__init__.py"))
EVERYWHERE = {"torch", "numpy", "tqdm", "cv2"}

# Private names of torch, which stand in torch_internals.py alone.
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


def module_of(path: Path) -> str:
    """The dotted name below the package; its own ``__init__`` is ``''``."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(name: str) -> tuple[set[str], set[tuple[str, bool]]]:
    """What a file imports: files of the package, and packages of others, and whether at its top."""
    path = FILES[name]
    package = [*name.split(".")] if name else []
    if path.name != "__init__.py":
        package = package[:-1]
    own, others = set(), set()
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = [PACKAGE.name, *package[: len(package) - node.level + 1]] if node.level else []
            base = ".".join([*base, *filter(None, [node.module])])
            found = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for module in found:
            top, _, inside = module.partition(".")
            if top != PACKAGE.name:
                others.add((top, node in tree.body))
            else:
                own.add(inside if inside in FILES else inside.rpartition(".")[0])
    return own - {name}, others


IMPORTS = {name: imports(name) for name in FILES}
EDGES = {name: own for name, (own, _) in IMPORTS.items()}


def room_of(module: str) -> str:
    """The room of a module of the package: a line of LAYERS has it."""
    two = ".".join(module.split(".")[:2])
    room = two if two in {n for layer in LAYERS for n in layer} else two.partition(".")[0]
    return SAME_ROOM.get(room, room)


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


def test_imports_are_read_as_python_reads_them():
    assert IMPORTS["engine.session"][0] >= {"errors", "engine.adapter"}
    assert IMPORTS["integrations.framework"][0] >= {"engine.adapter", "errors"}
    assert ("cv2", False) in IMPORTS["policy.background_subtraction"][1]
    assert ("torch", True) in IMPORTS["policy.background_subtraction"][1]


def test_a_circle_is_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [{"b", "c"}]


def test_no_files_of_the_engine_import_each_other():
    engine = {n: {t for t in to if t.startswith("engine")} for n, to in EDGES.items()}
    assert circles(engine) == []


def test_each_room_has_a_place():
    assert {room_of(name) for name in FILES} == {name for layer in LAYERS for name in layer}


def test_nothing_imports_upward():
    rank = {name: at for at, layer in enumerate(LAYERS) for name in layer}
    wrong = [
        f"{name} imports {target}"
        for name, targets in EDGES.items()
        for target in targets
        if room_of(target) != room_of(name) and rank[room_of(target)] >= rank[room_of(name)]
    ]
    assert wrong == []


def test_no_room_of_the_engine_imports_from_one_above():
    def bad(own: str, other: str) -> bool:
        if own not in ENGINE:
            return own in GROUND and other not in GROUND
        return ENGINE.index(other) > ENGINE.index(own) if other in ENGINE else other not in GROUND

    wrong = []
    for name, targets in EDGES.items():
        for target in targets:
            own, other = name.split("."), target.split(".")
            inside = own[0] == other[0] == "engine" and min(len(own), len(other)) > 1
            if inside and (name, target) not in UPWARD and bad(own[1], other[1]):
                wrong.append(f"{name} imports {target}")
    assert wrong == []


def test_the_oracle_knows_nothing_of_execution():
    """What checks the engine must not be made of it.

    But for where blocks end, in pixels (``geometry``), in views (``axes_rules``, each of whose
    answers the oracle tries out) and in dense tensors (``dense_map``): that is no matter of right
    or wrong.
    """
    allowed = {"errors", "engine.adapter", "engine.composite", "engine.torch_internals"}
    allowed |= {"engine.geometry", "engine.tensor.dense_map"}
    allowed |= {"engine.tensor.axes_rules"}
    found = {t for n, targets in EDGES.items() if n.startswith("engine.oracle.") for t in targets}
    assert {t for t in found if not t.startswith("engine.oracle")} <= allowed


def test_private_names_of_torch_are_in_one_file():
    wrong = []
    for name, path in FILES.items():
        if not name.startswith("engine.") or name == "engine.torch_internals":
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
                wrong.append(f"{name}:{node.lineno} {parts}")
    assert wrong == []


def test_no_file_is_too_large():
    large = {name for name, p in FILES.items() if len(p.read_text().splitlines()) > LINES}
    assert large == set()


def known(module: str) -> bool:
    return module in sys.stdlib_module_names or module == "torch"


def test_engine_ops_and_policy_import_torch_alone():
    for name, (_, others) in IMPORTS.items():
        room = room_of(name)
        if room in (*TORCH_ALONE, *IN_FUNCTIONS):
            late = IN_FUNCTIONS.get(room, ())
            wrong = {m for m, at_top in others if not known(m) and (at_top or m not in late)}
            assert wrong == set(), name


@pytest.mark.parametrize("folder", FOLDERS)
def test_an_integration_imports_its_own_framework(folder):
    own = set() if folder == "common" else {folder, *ALSO.get(folder, ())}
    for name, (_, others) in IMPORTS.items():
        if name.startswith(f"integrations.{folder}"):
            wrong = {m for m, _ in others if not known(m) and m not in own | EVERYWHERE}
            assert wrong == set(), name


def test_no_framework_is_imported_with_the_package():
    frameworks = [*FOLDERS, "mmcv", "cv2", "PIL", "av", "matplotlib"]
    code = f"import sys, blockcopy_plugins; print([f for f in {frameworks} if f in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert out.stdout.strip() == "[]"
