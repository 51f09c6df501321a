"""Our config in somebody else's MMSegmentation project, run by their script, in a fresh process."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

pytest.importorskip("mmseg")

ROOT = Path(__file__).resolve().parents[2]
from tests.test_tools import tiny_segmentor as tiny  # noqa: E402
from tests.tool_process import run_tool  # noqa: E402

# DeepLabV3+ as in our config, but narrow, on images of their own.
CONFIG = """
_base_ = './deeplabv3plus_blockcopy.py'
load_from = None
classes = ('ground', 'square', 'rest')
model = dict(
    pretrained=None,
    backbone=dict(base_channels=8, stem_channels=8),
    decode_head=dict(in_channels=256, channels=16, c1_in_channels=32, c1_channels=8,
                     num_classes=3),
    auxiliary_head=None)
test_dataloader = dict(
    num_workers=0, persistent_workers=False,
    dataset=dict(
        type='BaseSegDataset', data_root='a', metainfo=dict(classes=classes),
        img_suffix='_img.png', seg_map_suffix='_ids.png', reduce_zero_label=True,
        data_prefix=dict(img_path='frames', seg_map_path='labels'),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='Resize', scale=(160, 128)),
                  dict(type='LoadAnnotations'), dict(type='PackSegInputs')]))
randomness = dict(seed=0)
work_dir = 'work'
"""
# What MMSegmentation's tools/test.py does. Nothing of ours is imported.
SCRIPT = """
import json, sys
import torch
from mmengine.config import Config
from mmengine.runner import Runner

found = {}
for name, policy in (('dense', None), ('all', 'all'), ('none', 'none')):
    config = Config.fromfile('theirs.py')
    if policy is None:
        config.custom_hooks = []
        assert not any(m.startswith('blockcopy_plugins') for m in sys.modules)
    else:
        config.custom_hooks[0].update(policy=policy, block_size=32, one_video=True)
    config.experiment_name = name
    runner = Runner.from_cfg(config)
    if policy is None:
        # Each class wins somewhere: logits of mean 0 and deviation 1.
        head = runner.model.decode_head
        hook = head.conv_seg.register_forward_hook(lambda m, i, out: seen.append(out))
        seen = []
        runner.model.eval()
        with torch.no_grad():
            runner.model.test_step(next(iter(runner.test_dataloader)))
        hook.remove()
        mean, std = seen[0].mean((0, 2, 3)), seen[0].std((0, 2, 3))
        head.conv_seg.bias.data.sub_(mean).div_(std)
        head.conv_seg.weight.data.div_(std[:, None, None, None])
        weights = runner.model.state_dict()
    runner.model.load_state_dict(weights)
    found[name] = {key: float(value) for key, value in runner.test().items()}
    assert set(runner.model.state_dict()) == set(weights)
print('FOUND' + json.dumps(found))
"""


def test_their_script_runs_our_config(tmp_path):
    tiny.write_frames(tmp_path / "a", 4, (0, 1, 2, 3))
    for name in os.listdir(tmp_path / "a/labels"):
        if name.endswith("_colour.png"):
            (tmp_path / "a/labels" / name).unlink()
    shutil.copy(ROOT / "configs/deeplabv3plus_blockcopy.py", tmp_path)
    (tmp_path / "theirs.py").write_text(CONFIG)
    (tmp_path / "test.py").write_text(SCRIPT)
    done = run_tool(["test.py"], tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.rpartition("FOUND")[2])
    assert found["dense"]["mIoU"] > 1
    for key in ("mIoU", "aAcc", "mAcc"):
        assert found["all"][key] == pytest.approx(found["dense"][key], abs=0.02)
    # Images without ids are one stream: nothing after the first is executed.
    assert "BlockCopy: 4 frames" in done.stdout + done.stderr
    assert "25.0%" in done.stdout + done.stderr
    assert found["none"]["mIoU"] != found["dense"]["mIoU"]
