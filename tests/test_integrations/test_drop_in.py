"""Somebody's own MMDetection project: its config, its backbone, MMDetection's own tools/test.py.

Nothing of it knows this package. Then our config lines are added, and nothing else is changed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmdet")
cv2 = pytest.importorskip("cv2")

from tests.test_integrations import tiny_projects as projects  # noqa: E402
from tests.tool_process import run_tool  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
FRAMES = 8

_BACKBONE = '''
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import nn


@MODELS.register_module()
class ThriftyNet(BaseModule):
    """Four stages of a strided and a depthwise convolution."""

    def __init__(self, widths=(8, 16, 24, 32), init_cfg=None):
        super().__init__(init_cfg)
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.stages = nn.ModuleList()
        last = 8
        for width in widths:
            self.stages.append(nn.Sequential(
                nn.Conv2d(last, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.Hardswish(),
                nn.Conv2d(width, width, 5, 1, 2, groups=width), nn.SiLU(inplace=True)))
            last = width

    def forward(self, x):
        x, outs = self.stem(x), []
        for stage in self.stages:
            x = stage(x)
            outs.append(x)
        return tuple(outs)
'''

_CONFIG = """
_base_ = ['mmdet::_base_/models/faster-rcnn_r50_fpn.py', 'mmdet::_base_/default_runtime.py']
custom_imports = dict(imports=['thrifty.backbone'], allow_failed_imports=False)
model = dict(
    data_preprocessor=dict(pad_size_divisor=32),
    backbone=dict(_delete_=True, type='ThriftyNet', widths=(8, 16, 24, 32)),
    neck=dict(in_channels=[8, 16, 24, 32], out_channels=16),
    rpn_head=dict(in_channels=16, feat_channels=16,
                  anchor_generator=dict(scales=[4], ratios=[1.0])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=16),
        bbox_head=dict(in_channels=16, fc_out_channels=32, num_classes=2)),
    test_cfg=dict(rpn=dict(nms_pre=50, max_per_img=20), rcnn=dict(max_per_img=10)))
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(160, 128), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=(
        'img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
test_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CocoDataset', data_root='data/', ann_file='frames.json',
        data_prefix=dict(img='frames/'), metainfo=dict(classes=('cat', 'dog')),
        test_mode=True, pipeline=test_pipeline))
test_evaluator = dict(type='CocoMetric', ann_file='data/frames.json', metric='bbox')
test_cfg = dict(type='TestLoop')
"""

# Weights that make detections differ, and those detections of the dense model as ground truth: the
# dense run then scores 100, and whatever changes a box scores less.
_PREPARE = """
import json, sys, warnings
import torch
warnings.simplefilter('ignore')
from mmengine.config import Config
from mmdet.apis import inference_detector, init_detector

config = Config.fromfile('detector.py')
torch.manual_seed(0)
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope
init_default_scope('mmdet')
model = MODELS.build(config.model)
for module in model.modules():
    if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
        torch.nn.init.kaiming_normal_(module.weight, nonlinearity='linear')
    if isinstance(module, torch.nn.BatchNorm2d):
        torch.nn.init.normal_(module.running_mean, 0, 0.1)
        torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
model.roi_head.bbox_head.fc_cls.weight.data.mul_(3)
torch.save({'state_dict': model.state_dict(),
            'meta': {'dataset_meta': {'classes': ('cat', 'dog')}}}, 'weights.pth')

names = sys.argv[1:]
images = [dict(id=i, file_name=n, height=128, width=160) for i, n in enumerate(names)]
categories = [dict(id=1, name='cat'), dict(id=2, name='dog')]
with open('data/frames.json', 'w') as file:
    json.dump(dict(images=images, annotations=[], categories=categories), file)
model = init_detector('detector.py', 'weights.pth', device='cpu')
annotations = []
for image in images:
    found = inference_detector(model, 'data/frames/' + image['file_name']).pred_instances
    for box, label, score in zip(found.bboxes, found.labels, found.scores):
        x0, y0, x1, y1 = box.tolist()
        if score > 0.3:
            annotations.append(dict(
                id=len(annotations) + 1, image_id=image['id'], category_id=int(label) + 1,
                bbox=[x0, y0, x1 - x0, y1 - y0], area=(x1 - x0) * (y1 - y0), iscrowd=0))
with open('data/frames.json', 'w') as file:
    json.dump(dict(images=images, annotations=annotations, categories=categories), file)
"""

_LINES = {
    # The name of the config that the project gets, and all that stands in it.
    "all_blocks": """
_base_ = './detector.py'
custom_hooks = [dict(type='blockcopy_plugins.BlockCopyHook', block_size=32, policy='all')]
""",
    "first_frame_only": """
_base_ = './detector.py'
custom_hooks = [dict(type='blockcopy_plugins.BlockCopyHook', block_size=32, policy='none',
                     one_video=True)]
""",
    "backbone_all_blocks": """
_base_ = './detector.py'
model = dict(backbone=dict(
    _delete_=True, type='blockcopy_plugins.BlockCopyBackbone', block_size=32, policy='all',
    backbone={{_base_.model.backbone}}))
""",
    "backbone_random": """
_base_ = './detector.py'
model = dict(backbone=dict(
    _delete_=True, type='blockcopy_plugins.BlockCopyBackbone', block_size=32,
    policy=dict(type='RandomPolicy', rate=0.2, seed=0), backbone={{_base_.model.backbone}}))
custom_hooks = [dict(type='blockcopy_plugins.BlockCopyHook', one_video=True)]
""",
    "pictures_dense": """
_base_ = './detector.py'
test_dataloader = dict(dataset=dict(ann_file='sizes.json'))
test_evaluator = dict(ann_file='data/sizes.json')
""",
    "pictures": """
_base_ = './pictures_dense.py'
custom_hooks = [dict(type='blockcopy_plugins.BlockCopyHook', block_size=32, policy='none')]
""",
    "other_sizes": """
_base_ = './pictures_dense.py'
custom_hooks = [dict(type='blockcopy_plugins.BlockCopyHook', block_size=32, policy='all',
                     one_video=True)]
""",
}


def stock_test():
    """MMDetection's tools/test.py, as its wheel brings it."""
    found = Path(importlib.util.find_spec("mmdet").origin).parent / ".mim/tools/test.py"
    if not found.is_file():
        pytest.skip("this MMDetection came without its tools")
    return found


@pytest.fixture(scope="module")
def environment():
    path = os.pathsep.join((".", os.environ["PYTHONPATH"]))
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}


@pytest.fixture(scope="module")
def project(tmp_path_factory, environment):
    folder = tmp_path_factory.mktemp("somebodys_project")
    (folder / "thrifty").mkdir()
    (folder / "thrifty/__init__.py").write_text("")
    (folder / "thrifty/backbone.py").write_text(_BACKBONE)
    (folder / "detector.py").write_text(_CONFIG)
    (folder / "prepare.py").write_text(_PREPARE)
    (folder / "data/frames").mkdir(parents=True)
    names = [f"{i:03d}.png" for i in range(FRAMES)]
    for name, frame in zip(names, projects.pictures(FRAMES), strict=True):
        assert cv2.imwrite(str(folder / "data/frames" / name), frame)
    done = run_tool(["prepare.py", *names], folder, environment)
    assert done.returncode == 0, done.stderr
    truth = json.loads((folder / "data/frames.json").read_text())
    assert len(truth["annotations"]) > FRAMES, "else the metrics would say nothing"
    for name, text in _LINES.items():
        (folder / f"{name}.py").write_text(text)
    _write_other_sizes(folder, truth)
    return folder


def _write_other_sizes(folder, truth):
    """Images as COCO has them: each of another size, and nothing to do with the one before."""
    images = []
    for i, size in enumerate([(128, 160), (128, 160), (160, 120)]):
        cv2.imwrite(str(folder / f"data/frames/s{i}.png"), projects.pictures(1, i, size)[0])
        images.append(dict(id=i, file_name=f"s{i}.png", height=size[0], width=size[1]))
    annotations = [a for a in truth["annotations"] if a["image_id"] < 3]
    coco = {**truth, "images": images, "annotations": annotations}
    (folder / "data/sizes.json").write_text(json.dumps(coco))


# The stock entry once more for each config, in one process, since imports take seconds.
_ONE_AFTER_THE_OTHER = """
import runpy, sys
entry, *names = sys.argv[1:]
for name in names:
    sys.argv = [entry, f'{name}.py', 'weights.pth', '--work-dir', f'work/{name}',
                '--out', f'{name}.pkl']
    runpy.run_path(entry, run_name='__main__')
"""


@pytest.fixture(scope="module")
def runs(project, environment):
    """Status and output of two processes; the first is just what a user starts."""
    entry = str(stock_test())
    # The project without us comes before anything of ours is imported; the one that fails is last.
    others = ["detector", *(name for name in _LINES if name != "all_blocks")]
    command = [entry, "all_blocks.py", "weights.pth", "--work-dir", "work/all_blocks"]
    done = {
        "all_blocks": subprocess.run(
            [sys.executable, *command, "--out", "all_blocks.pkl"],
            cwd=project,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        ),
        "others": run_tool(["-c", _ONE_AFTER_THE_OTHER, entry, *others], project, environment),
    }
    return {name: (one.returncode, one.stdout + one.stderr) for name, one in done.items()}


def log_of(project, name):
    (path,) = (project / "work" / name).glob("*/*.log")
    return path.read_text()


def metrics(project, runs, name):
    status, output = runs.get(name, (0, ""))
    assert status == 0, output
    found = list((project / "work" / name).glob("*/*.json"))
    assert len(found) == 1, runs["others"][1]
    return json.loads(found[0].read_text())


def detections(project, name):
    with open(project / f"{name}.pkl", "rb") as file:
        return [sample["pred_instances"] for sample in pickle.load(file)]


def executed_rate(project, name):
    """Of the report in the log, in percent."""
    begin = "executed rate"
    lines = [line.strip() for line in log_of(project, name).splitlines()]
    (line,) = (line for line in lines if line.startswith(begin))
    return float(line.removeprefix(begin).strip().rstrip("%"))


def test_project_runs_without_us(project, runs):
    found = metrics(project, runs, "detector")
    assert found["coco/bbox_mAP"] > 0.9
    assert "blockcopy" not in log_of(project, "detector").lower()


@pytest.mark.parametrize("name", ["all_blocks", "backbone_all_blocks"])
def test_all_blocks_give_the_metrics_and_boxes_of_the_dense_run(project, runs, name):
    dense, ours = metrics(project, runs, "detector"), metrics(project, runs, name)
    for key, value in dense.items():
        if key.startswith("coco/"):
            assert ours[key] == pytest.approx(value, abs=2e-3), key
    for found, want in zip(detections(project, name), detections(project, "detector"), strict=True):
        assert torch.equal(found["labels"], want["labels"]) and len(want["labels"]) >= 3
        torch.testing.assert_close(found["scores"], want["scores"], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(found["bboxes"], want["bboxes"], rtol=1e-3, atol=2e-2)


def test_log_tells_the_executed_rate(project, runs):
    assert executed_rate(project, "all_blocks") == 100
    # All frames in one stream, as the data set has no videos: the first frame fully, then none.
    assert executed_rate(project, "first_frame_only") == pytest.approx(100 / FRAMES)
    assert 20 < executed_rate(project, "backbone_random") < 45


def test_blocks_that_were_not_executed_cost_accuracy(project, runs):
    """So the runs above did go through our package, and the boxes here are old ones."""
    dense = metrics(project, runs, "detector")["coco/bbox_mAP"]
    found = metrics(project, runs, "first_frame_only")["coco/bbox_mAP"]
    assert found < dense - 0.05
    boxes = detections(project, "first_frame_only")
    for one in boxes[1:]:
        assert torch.equal(one["bboxes"], boxes[0]["bboxes"])
    assert metrics(project, runs, "backbone_random")["coco/bbox_mAP"] < dense - 0.01


def test_checkpoint_of_the_project_fits_as_it_is(project, runs):
    for name in ("all_blocks", "backbone_all_blocks", "backbone_random"):
        log = log_of(project, name)
        assert "Load checkpoint from weights.pth" in log
        assert "missing keys" not in log and "unexpected key" not in log


def test_images_without_videos_are_pictures(project, runs):
    """A stock dataset under our hook: the dense results, and a word on what is missing."""
    for found, want in zip(
        detections(project, "pictures"), detections(project, "pictures_dense"), strict=True
    ):
        torch.testing.assert_close(found["scores"], want["scores"], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(found["bboxes"], want["bboxes"], rtol=1e-3, atol=2e-2)
    assert executed_rate(project, "pictures") == 100
    log = log_of(project, "pictures")
    assert log.count("have no video_id") == 1 and "one_video=True" in log
    assert "have no video_id" not in log_of(project, "first_frame_only")


def test_unrelated_images_of_several_sizes_are_no_video(runs):
    """A stream keeps its size."""
    status, output = runs["others"]
    assert status != 0
    last = output.strip().splitlines()[-1]
    assert "FrameError" in last and "stream 0 has frames of" in last and "reset_" in last
