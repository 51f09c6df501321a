"""Dataset, sampler and metric together in a Runner's test loop, in one process and in two."""

from __future__ import annotations

import os

import cv2
import numpy as np
import pytest
import torch
import torch.multiprocessing

pytest.importorskip("mmdet")

from mmengine.model import BaseModel  # noqa: E402
from mmengine.runner import Runner  # noqa: E402
from mmengine.structures import InstanceData  # noqa: E402


class SquareFinder(BaseModel):
    """Finds the bright square of each frame, some pixels beside where it is."""

    def __init__(self):
        super().__init__(data_preprocessor=dict(type="mmdet.DetDataPreprocessor"))
        self.seen = []

    def forward(self, inputs, data_samples=None, mode="tensor"):
        for image, sample in zip(inputs, data_samples, strict=True):
            rows, columns = torch.nonzero(image[0] > 200, as_tuple=True)
            box = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            box = box.float() / torch.tensor(sample.scale_factor).repeat(2) + sample.frame_id % 4
            sample.pred_instances = InstanceData(
                bboxes=box[None],
                scores=torch.tensor([0.9 - 0.01 * sample.frame_id]),
                labels=torch.zeros(1, dtype=torch.long),
            )
            self.seen.append((sample.video_id, sample.frame_id))
        return data_samples


def write_sequences(folder, lengths):
    """Folders of frames with a square that moves, and their MOTChallenge ground truth."""
    for video, length in enumerate(lengths):
        frames = folder / f"seq{video}" / "img1"
        frames.mkdir(parents=True)
        lines = []
        for i in range(length):
            frame = np.zeros((48, 64, 3), np.uint8)
            frame[10:26, 4 + i : 24 + i] = 255
            cv2.imwrite(str(frames / f"{i + 1}.png"), frame)
            lines.append(f"{i + 1},1,{5 + i},11,20,16,1,-1,-1,-1")
        (folder / f"seq{video}" / "gt.txt").write_text("\n".join(lines))


def run_test(folder, count, work_dir, batch_size=1):
    loader = dict(
        batch_size=batch_size,
        num_workers=0,
        sampler=dict(type="blockcopy_plugins.VideoSampler"),
        dataset=dict(
            type="blockcopy_plugins.VideoFrameDataset",
            videos="seq*/img1",
            data_root=folder,
            ann_file=[f"seq{i}/gt.txt" for i in range(count)],
            pipeline=[
                dict(type="LoadImageFromFile", backend_args=None),
                dict(type="Resize", scale=(128, 96), keep_ratio=True),
                dict(type="LoadAnnotations", with_bbox=True),
                dict(type="PackDetInputs", meta_keys=("ori_shape", "scale_factor")),
            ],
        ),
    )
    if batch_size > 1:
        loader["batch_sampler"] = dict(type="blockcopy_plugins.VideoBatchSampler")
    model = SquareFinder()
    runner = Runner(
        model=model,
        work_dir=work_dir,
        test_dataloader=loader,
        test_cfg=dict(type="TestLoop"),
        test_evaluator=[
            dict(type="blockcopy_plugins.FrameDetectionMetric"),
            dict(type="CocoMetric", metric="bbox"),
        ],
        default_scope="mmdet",
        log_level="ERROR",
        experiment_name=f"run{batch_size}",
    )
    metrics = runner.test()
    return metrics, model.seen


def check(metrics, seen, lengths):
    assert seen == [(v, i) for v, n in enumerate(lengths) for i in range(n)]
    assert metrics["video/frames"] == metrics["video/annotated_frames"] == sum(lengths)
    # 20 x 16 px, shifted by 0 to 3 px both ways: IoU 1, 0.80, 0.65 and 0.53.
    assert metrics["video/bbox_AP50"] == pytest.approx(1)
    assert 0.2 < metrics["video/bbox_AP75"] < 0.9


def test_one_process_agrees_with_mmdetection(tmp_path):
    lengths = [6, 3, 4]
    write_sequences(tmp_path, lengths)
    metrics, seen = run_test(str(tmp_path), 3, str(tmp_path / "w"))
    check(metrics, seen, lengths)
    for ours, theirs in (("AP", "mAP"), ("AP50", "mAP_50"), ("AP75", "mAP_75")):
        # MMDetection rounds to three digits.
        assert metrics[f"video/bbox_{ours}"] == pytest.approx(
            metrics[f"coco/bbox_{theirs}"], abs=6e-4
        )
    lockstep, seen = run_test(str(tmp_path), 3, str(tmp_path / "v"), batch_size=2)
    assert sorted(seen) == [(v, i) for v, n in enumerate(lengths) for i in range(n)]
    assert seen[:4] == [(0, 0), (1, 0), (0, 1), (1, 1)]
    np.testing.assert_equal(lockstep, metrics)


def _run_in_a_process(rank, world_size, folder, count):
    # MMEngine's own launchers need a GPU; without one it uses the process group that there is.
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size
    )
    torch.set_num_threads(1)
    os.chdir(folder)  # MMDetection's metric leaves a folder in the working directory
    result = run_test(folder, count, f"{folder}/w")
    torch.save(result, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("lengths", [[6, 3, 4], [5]])
def test_two_processes_give_what_one_gives(tmp_path, lengths):
    write_sequences(tmp_path, lengths)
    torch.multiprocessing.spawn(_run_in_a_process, (2, str(tmp_path), len(lengths)), nprocs=2)
    expected, _ = run_test(str(tmp_path), len(lengths), str(tmp_path / "w"))
    seen = []
    for rank in range(2):
        metrics, own = torch.load(tmp_path / f"{rank}.pt", weights_only=False)
        for name, value in expected.items():
            if name.startswith("video"):
                np.testing.assert_equal(metrics[name], value)
        seen += own
    check(expected, sorted(seen), lengths)
