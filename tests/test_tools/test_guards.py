"""Guards through tools/test_video.py: what a real process executed, frame by frame."""

from __future__ import annotations

import json
import os
import warnings

import pytest
import torch

pytest.importorskip("mmdet")

from tests.test_tools import tiny_detector as tiny  # noqa: E402
from tests.tool_process import run_tool  # noqa: E402

TOOL = tiny.ROOT / "tools/test_video.py"
LENGTHS = {"a": 17, "b": 9}

# A hook of a user's own, which writes down each grid that ran.
_DUMP = """
import json
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from blockcopy_plugins.integrations.mmengine import find_hook

@HOOKS.register_module()
class DumpGrids(Hook):
    priority = "LOWEST"

    def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        grid = find_hook(runner).handle.last.grid[0].int().tolist()
        with open("grids.jsonl", "a") as file:
            file.write(json.dumps([outputs[0].video_id, grid]) + "\\n")
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guards")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weights = tiny.write_weights(folder)
    path = tiny.write_config(folder, weights)
    text = path.read_text().replace(
        "policy=dict(type='RLPolicy', target=0.3, seed=0)",
        "policy=dict(type='RandomPolicy', rate=0.1, seed=0), guards=GUARDS",
    )
    assert "GUARDS" in text
    path.write_text(
        "GUARDS = [dict(type='MaxAge', frames=5), 'SceneCut']\n"
        "custom_imports = dict(imports=['dump_grids'])\n"
        f"{text}\ncustom_hooks.append(dict(type='mmengine.DumpGrids'))\n"
    )
    (folder / "dump_grids.py").write_text(_DUMP)
    for seed, (name, frames) in enumerate(LENGTHS.items()):
        tiny.write_clip(folder / f"{name}.mp4", frames, seed)
    return folder


def test_video(folder, *arguments):
    """Run the tool on both clips; returns its output, results, and grids of each video."""
    (folder / "grids.jsonl").unlink(missing_ok=True)
    clips = [f"{name}.mp4" for name in LENGTHS]
    done = run_tool(
        [TOOL, "tiny.py", "--video", *clips, "--out", "out.json", *arguments],
        folder,
        {"PYTHONPATH": os.pathsep.join((str(folder), os.environ["PYTHONPATH"]))},
    )
    assert done.returncode == 0, done.stderr
    grids: dict[int, list[torch.Tensor]] = {}
    for line in (folder / "grids.jsonl").read_text().splitlines():
        video, grid = json.loads(line)
        grids.setdefault(video, []).append(torch.tensor(grid, dtype=torch.bool))
    assert [len(found) for found in grids.values()] == list(LENGTHS.values())
    return done.stdout, json.loads((folder / "out.json").read_text()), list(grids.values())


test_video.__test__ = False


def test_no_block_is_older_than_max_age(place):
    _, results, videos = test_video(place)
    executed = 0
    for grids in videos:
        assert grids[0].all()
        last = torch.zeros(grids[0].shape)
        for index, grid in enumerate(grids):
            assert (index - last).max() <= 5
            last[grid] = index
            executed += int(grid.sum())
        # It is the guard that does it: chance would leave some block alone for longer.
        assert 0.1 < torch.stack(grids[1:]).float().mean() < 0.6
    age, cut = results["guards"]
    assert age["guard"] == "MaxAge(frames=5)" and 0 < age["added"] <= age["demanded"]
    assert cut["guard"].startswith("SceneCut(") and cut["demanded"] == 0
    blocks = sum(LENGTHS.values()) * videos[0][0].numel()
    assert results["executed_rate"] == pytest.approx(executed / blocks)


def test_guards_of_the_command_line(place):
    said, results, videos = test_video(
        place, "--policy", "none", "--guards", "dict(type='MaxAge', frames=4)", "--no-dense-too"
    )
    for grids in videos:
        rates = [grid.float().mean().item() for grid in grids]
        assert rates == [float(index % 4 == 0) for index in range(len(grids))]
    full = 4 + 2  # frames that the guard had run, of 17 and of 9
    blocks = full * videos[0][0].numel()
    assert results["guards"] == [
        {"guard": "MaxAge(frames=4)", "demanded": blocks, "added": blocks, "taken": 0}
    ]
    assert f"guard MaxAge(frames=4): demanded {blocks} blocks" in said
    assert "after first frames" in said
