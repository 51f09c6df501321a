"""No tool writes over what it reads: all tools, all outputs, and nothing is changed or left."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest

pytest.importorskip("mmdet")

from tests.test_tools import tiny_detector as tiny  # noqa: E402
from tests.tool_process import run_tool  # noqa: E402

DEMO = ["--config", "tiny.py"]
TEST = ["tiny.py", "--work-dir", "wd"]
MISTAKES = {
    "OUT is IN": ("demo_video", ["a.mp4", "a.mp4", *DEMO], "OUT 'a.mp4'"),
    "OUT is IN by ./": ("demo_video", ["a.mp4", "./a.mp4", *DEMO], "OUT './a.mp4'"),
    "IN is a symlink": ("demo_video", ["soft.mp4", "a.mp4", *DEMO], "IN 'soft.mp4'"),
    "OUT is a symlink": ("demo_video", ["a.mp4", "soft.mp4", *DEMO], "OUT 'soft.mp4'"),
    "OUT is a hard link": ("demo_video", ["a.mp4", "hard.mp4", *DEMO], "OUT 'hard.mp4'"),
    "OUT is IN by its address": ("demo_video", ["file:a.mp4", "a.mp4", *DEMO], "OUT 'a.mp4'"),
    "OUT is the weights": (
        "demo_video",
        ["a.mp4", "w.mp4", *DEMO, "--checkpoint", "w.mp4"],
        "the checkpoint 'w.mp4'",
    ),
    "OUT in no folder": ("demo_video", ["a.mp4", "a.mp4/o.mp4", *DEMO], "is not a folder"),
    "--out is --ann": (
        "test_video",
        [*TEST, "--video", "a.mp4", "--ann", "gt.json", "--out", "gt.json"],
        "--out 'gt.json' is the same file as --ann",
    ),
    "frames' figures are --ann": (
        "test_video",
        [*TEST, "--video", "a.mp4", "--ann", "gt_frames.jsonl", "--out", "gt.json"],
        "gt_frames.jsonl",
    ),
    "overlay is another input": (
        "test_video",
        [*TEST, "--video", "a.mp4", "a_blockcopy.mp4", "--show-dir", "."],
        "'a_blockcopy.mp4' is the same file as the video",
    ),
    "plot among the frames": (
        "test_video",
        [*TEST, "--video", "frames", "--out", "frames/results.json"],
        "among the images",
    ),
    "copy of the config is the config": (
        "test_video",
        ["tiny.py", "--video", "a.mp4", "--work-dir", "."],
        "'tiny.py' is the same file as the config",
    ),
    "training over its config": (
        "train_policy",
        ["tiny.py", "--video", "a.mp4", "--work-dir", "."],
        "'tiny.py' is the same file as the config",
    ),
    "over a base of the config": (
        "train_policy",
        ["derived/base.py", "--video", "a.mp4", "--work-dir", "."],
        "'base.py' is the same file as a config that it is made of",
    ),
    "the figures over a guard's mask": (
        "test_video",
        [*TEST, "--video", "a.mp4", "--out", "zone.json", "--guards"]
        + ["dict(type='Ignore', mask='zone_curve.png')"],
        "'zone_curve.png' is the same file as a file that the config names",
    ),
    "training over the weights": (
        "train_policy",
        [
            "tiny.py",
            "--video",
            "a.mp4",
            "--work-dir",
            "policy",
            "--checkpoint",
            "policy/policy.pth",
        ],
        "'policy/policy.pth' is the same file as the checkpoint",
    ),
}
_BASE = "_base_ = 'tiny.py'\n"
# Configs that are wrong in one place, and what is said of them.
WRONG = {
    "divides": ("1 / 0", "cannot be read: ZeroDivisionError"),
    "unknown name": ("nothing_of_that_name", "cannot be read: NameError"),
    "ends the program": ("raise SystemExit(3)", "cannot be read: SystemExit: 3"),
    "asserts": ("assert False, 'no'", "cannot be read: AssertionError: no"),
    "hooks a number": (_BASE + "custom_hooks = 3", "custom_hooks is 3, expected a list"),
    "unknown model": (_BASE + "model = dict(type='Nope')", "the model of the config.*Nope"),
    "unknown argument": (_BASE + "model = dict(nope=3)", "the model of the config.*'nope'"),
    "no type": (
        _BASE + "model = dict(_delete_=True, a=1)",
        "the model of the config.*'?type'?|has no",
    ),
    "classes are a text": (
        _BASE + "test_dataloader = dict(dataset=dict(metainfo=dict(classes=('thing'))))",
        r"classes must be a sequence of names.*'thing'.*\('thing',\)",
    ),
    "unknown transform": (
        _BASE + "test_dataloader = dict(dataset=dict(pipeline=[dict(type='Nope')]))",
        "(pipeline|test loop) of the config.*Nope|Nope",
    ),
}
for _name, (_, _said) in WRONG.items():
    _file = f"wrong_{_name.replace(' ', '_')}.py"
    MISTAKES[f"demo: {_name}"] = ("demo_video", ["a.mp4", "o.mp4", "--config", _file], _said)
    MISTAKES[f"test: {_name}"] = (
        "test_video",
        [_file, "--video", "a.mp4", "--work-dir", "wd"],
        _said,
    )
_DRIVER = """
import contextlib, importlib, io, json, sys
sys.path.insert(0, sys.argv[1])
found = {}
for name, (tool, arguments, _) in json.loads(sys.argv[2]).items():
    module, err = importlib.import_module(tool), io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        status = module.run(module.main, module.parse_args(arguments))
    found[name] = (status, err.getvalue())
print('FOUND' + json.dumps(found))
"""


def content(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    cv2 = pytest.importorskip("cv2")
    folder = tmp_path_factory.mktemp("protection")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weights = tiny.write_weights(folder)
    tiny.write_config(folder, weights)
    for name, seed in (("a", 1), ("a_blockcopy", 2)):
        tiny.write_clip(folder / f"{name}.mp4", 2, seed)
    (folder / "soft.mp4").symlink_to("a.mp4")
    os.link(folder / "a.mp4", folder / "hard.mp4")
    (folder / "policy").mkdir()
    for copy in ("w.mp4", "policy/policy.pth"):
        (folder / copy).write_bytes(weights.read_bytes())
    tiny.write_coco(folder / "gt.json", "a", 2)
    (folder / "base.py").write_text((folder / "tiny.py").read_text())
    for name, (text, _) in WRONG.items():
        (folder / f"wrong_{name.replace(' ', '_')}.py").write_text(text + "\n")
    (folder / "derived").mkdir()
    (folder / "derived/base.py").write_text("_base_ = '../base.py'\n")
    cv2.imwrite(str(folder / "zone_curve.png"), 255 * np.eye(16, dtype=np.uint8))
    (folder / "gt_frames.jsonl").write_text("1,1,1,1,5,5,1\n")
    (folder / "frames").mkdir()
    cv2.imwrite(str(folder / "frames/0.png"), np.zeros((128, 160, 3), np.uint8))
    before = content(folder)
    done = run_tool(["-c", _DRIVER, tiny.ROOT / "tools", json.dumps(MISTAKES)], folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.rpartition("FOUND")[2]), before, content(folder)


@pytest.mark.parametrize("name", list(MISTAKES))
def test_a_tool_refuses_to_write_over_an_input(outcome, name):
    status, stderr = outcome[0][name]
    errors = [line for line in stderr.splitlines() if line.startswith("error:")]
    said = MISTAKES[name][2]
    found = said in errors[0] if ":" not in name else re.search(said, errors[0])
    assert status == 2 and len(errors) == 1 and found, stderr
    assert "Traceback" not in stderr


def test_inputs_are_as_they_were_and_nothing_is_left(outcome):
    _, before, after = outcome
    # MMEngine's own log and its copy of the config are there by the time that a model is built.
    after = {name: found for name, found in after.items() if not name.startswith("wd/")}
    assert after == before


def test_the_remedy_works(tmp_path):
    """Another name, as the refusals say: the tool then runs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tiny.write_config(tmp_path, tiny.write_weights(tmp_path))
    (tmp_path / "y").mkdir()
    for seed, name in enumerate(("a", "y/a", "a_blockcopy", "A")):
        tiny.write_clip(tmp_path / f"{name}.mp4", 1 + seed, seed)
    before = content(tmp_path)
    command = [
        *(tiny.ROOT / "tools/test_video.py", "tiny.py", "--no-dense-too"),
        *("--video", "a.mp4", "y/a.mp4", "a_blockcopy.mp4", "A.mp4", "--show-dir", "show"),
        *("--work-dir", "wd", "--policy", "none"),
    ]
    done = run_tool(command, tmp_path)
    assert done.returncode == 0, done.stderr
    assert before.items() <= content(tmp_path).items()
    av = pytest.importorskip("av")
    shown = {}
    for path in (tmp_path / "show").glob("*.mp4"):
        with av.open(str(path)) as container:
            shown[path.name] = sum(1 for _ in container.decode(video=0))
    assert sorted(shown.values()) == [1, 2, 3, 4]
    assert len({name.casefold() for name in shown}) == 4


CLOSED = {"stderr": "2>&-", "stdout": ">&-", "all three": "<&- >&- 2>&-"}


@pytest.mark.parametrize("name", list(CLOSED))
def test_streams_that_are_closed_do_not_end_up_in_files(tmp_path, name):
    """What libraries print would be written to the next file that is opened, a video say."""
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); import _cli; _cli.steady_streams()\n"
        "with open('file', 'wb') as file:\n"
        "    for number in (1, 2):\n"
        "        os.write(number, b'of a library')\n"
        "    print('said'); print('said', file=sys.stderr); sys.stdout.flush()\n"
        "    file.write(b'film')\n"
    )
    command = f'"$0" -c "$1" "$2" {CLOSED[name]}'
    tools = str(tiny.ROOT / "tools")
    done = subprocess.run(["sh", "-c", command, sys.executable, code, tools], cwd=tmp_path)
    assert done.returncode == 0 and (tmp_path / "file").read_bytes() == b"film"


def test_names_that_a_terminal_cannot_spell_are_printed(tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import _cli; _cli.steady_streams()\n"
        "print('\\udcff \u00d7 end')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny.ROOT / "tools")],
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
        capture_output=True,
    )
    assert done.stdout.strip() == rb"\udcff \xd7 end", done.stderr


def test_a_full_disk_that_a_library_meets_is_said_with_the_remedy(tmp_path):
    code = (
        "import argparse, errno, sys; sys.path.insert(0, sys.argv[1]); import _cli\n"
        "def main(args):\n"
        "    raise OSError(errno.ENOSPC, 'No space left on device')\n"
        "arguments = argparse.Namespace(config=__file__, verbose=False)\n"
        "sys.exit(_cli.run(main, arguments))\n"
    )
    (tmp_path / "tool.py").write_text(code)
    done = run_tool([tmp_path / "tool.py", tiny.ROOT / "tools"], tmp_path)
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("error: [Errno 28]")
    assert "Make room where this tool writes" in done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_a_log_on_a_full_disk_is_noted_once(tmp_path):
    """MMEngine's log is the first file of a run, and gets a line every few frames."""
    code = (
        "import logging, sys; sys.path.insert(0, sys.argv[1])\n"
        "from mmengine.config import Config; from mmengine.model import BaseModel\n"
        "import _runner\n"
        "class Model(BaseModel):\n"
        "    def forward(self, *args): pass\n"
        "config = Config(dict(model=Model(), work_dir=sys.argv[2]))\n"
        "runner = _runner.make_runner(config, verbose=False)\n"
        "(log,) = (h for h in runner.logger.handlers if isinstance(h, logging.FileHandler))\n"
        "log.stream = open('/dev/full', 'w')\n"
        "for line in range(3):\n"
        "    runner.logger.info('frame %d', line)\n"
        "print('end')\n"
    )
    done = run_tool(["-c", code, tiny.ROOT / "tools", tmp_path], tmp_path)
    assert done.stdout.strip() == "end" and done.returncode == 0, done.stderr
    assert len(re.findall(r"the log \S+\.log cannot be written \(No space", done.stderr)) == 1
    assert "Traceback" not in done.stderr
