"""What the rooms of the package may import; the engine's inside has a test of its own.

Imports in functions and those that only a type checker follows count, too.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "blockcopy_plugins"

# The lowest first: a file imports from its own room and from those in lines above, and from its
# neighbours in a line not at all. A room is a folder, or a file beside the folders.
LAYERS = (
    ("errors", "addresses", "allocator", "damaged_files", "default_tensors", "host_transfer"),
    ("image_names",),
    ("part_files", "file_protection", "registry"),
    ("ops",),
    ("policy",),
    ("propagation",),
    ("engine",),
    ("options", "checkpoints", "visualization"),
    ("datasets",),
    ("evaluation", "models"),
    ("integrations.framework", "integrations.config_kind", "integrations.mmcv_ops"),
    ("api",),
    ("integrations.common",),
    ("integrations.mmengine", "integrations.detectron2"),
    ("integrations",),  # the folders of all other frameworks
    ("estimate",),
    ("__init__",),
    ("info",),
)
# The config is the engine's, and stands where users look for it.
SAME_ROOM = {"config": "engine"}
# What a room may import of other people's, anywhere; in functions alone where it is said so.
TORCH_ALONE = ("ops", "engine", "config", "options", "api", "host_transfer", "default_tensors")
IN_FUNCTIONS = {
    "policy": {"cv2", "PIL"},  # masks of zones, background subtraction
    "propagation": {"cv2", "numpy"},  # optical flow on small pictures
}
# A folder of an integration imports the package that it is called as; some import more.
ALSO = {
    "mmengine": {"mmdet"},
    "mmdet": {"mmengine", "mmcv"},
    "mmseg": {"mmengine"},
    "detectron2": {"omegaconf"},
    "ultralytics": {"torchvision"},
}
FOLDERS = sorted(p.parent.name for p in (PACKAGE / "integrations").glob("*/__init__.py"))
EVERYWHERE = {"torch", "numpy", "tqdm", "cv2"}


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Modules that a file imports, by full name, and whether at its top."""
    parts = list(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    package = parts[:-1]
    tree = ast.parse(path.read_text())
    top = set(map(id, tree.body))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, *(node.module.split(".") if node.module else [])]
            for alias in node.names:
                yield ".".join([*base, alias.name]), id(node) in top


def room_of(module: str) -> str:
    """The room of a module of the package: a line of LAYERS has it."""
    parts = module.split(".")[1:] or ["__init__"]
    if parts[0] == "integrations" and len(parts) > 1:
        known = {name for layer in LAYERS for name in layer}
        return ".".join(parts[:2]) if ".".join(parts[:2]) in known else parts[0]
    exists = (PACKAGE / parts[0]).is_dir() or (PACKAGE / f"{parts[0]}.py").is_file()
    return SAME_ROOM.get(parts[0], parts[0]) if exists else "__init__"


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_imports_are_read_as_python_reads_them():
    found = dict(imports(PACKAGE / "integrations" / "framework.py"))
    assert found["blockcopy_plugins.engine.adapter.ModelAdapter"] is True
    found = dict(imports(PACKAGE / "policy" / "background_subtraction.py"))
    assert found["cv2"] is False


def test_each_room_has_a_place():
    rooms = {room_of(module_of(path)) for path in files()}
    assert rooms == {name for layer in LAYERS for name in layer}


def test_nothing_imports_upward():
    rank = {name: at for at, layer in enumerate(LAYERS) for name in layer}
    wrong = []
    for path in files():
        own = room_of(module_of(path))
        for module, _ in imports(path):
            if module.split(".")[0] != PACKAGE.name:
                continue
            other = room_of(module)
            if other != own and rank[other] >= rank[own]:
                wrong.append(f"{path.relative_to(PACKAGE)} imports {module}")
    assert wrong == []


def test_engine_ops_and_policy_import_torch_alone():
    for path in files():
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room not in (*TORCH_ALONE, *IN_FUNCTIONS):
            continue
        for module, at_top in imports(path):
            name = module.split(".")[0]
            known = name in sys.stdlib_module_names or name in ("torch", PACKAGE.name)
            late = not at_top and name in IN_FUNCTIONS.get(room, ())
            assert known or late, f"{path}: {module}"


@pytest.mark.parametrize("folder", FOLDERS)
def test_an_integration_imports_its_own_framework(folder):
    own = set() if folder == "common" else {folder, *ALSO.get(folder, ())}
    for path in (PACKAGE / "integrations" / folder).glob("*.py"):
        for module, _ in imports(path):
            name = module.split(".")[0]
            known = name in sys.stdlib_module_names or name in EVERYWHERE | {PACKAGE.name}
            assert known or name in own, f"{path}: {module}"


def test_no_framework_is_imported_with_the_package():
    frameworks = [*FOLDERS, "mmcv", "cv2", "PIL", "av", "matplotlib"]
    code = f"import sys, blockcopy_plugins; print([f for f in {frameworks} if f in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert out.stdout.strip() == "[]"
