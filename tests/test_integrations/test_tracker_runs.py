"""A tracker under a Runner with MMDetection's own data set, and in a VideoInferencer."""

from __future__ import annotations

import copy
import json
import warnings

import pytest
import torch

import blockcopy_plugins as bc
from blockcopy_plugins.errors import ConfigError

pytest.importorskip("mmdet", reason="needs MMDetection")
pytest.importorskip("lap", reason="needs lap, as MMDetection's ByteTrack does")
cv2 = pytest.importorskip("cv2")

from mmengine.evaluator import BaseMetric  # noqa: E402
from mmengine.registry import METRICS, DefaultScope  # noqa: E402
from mmengine.runner import Runner  # noqa: E402

from tests.test_integrations import test_trackers as trackers  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
FRAMES = 3


@METRICS.register_module()
class KeptTracks(BaseMetric):
    """Counts frames; what a tracker found is of no concern here."""

    seen = 0

    def process(self, data_batch, data_samples):
        for sample in data_samples:
            for frame in sample["video_data_samples"]:
                assert len(frame.pred_track_instances) >= 0
                self.seen += 1
        # MMEngine keeps as many results as there are videos.
        self.results = [self.seen]

    def compute_metrics(self, results):
        return {"frames": results[0]}


@pytest.fixture(scope="module", autouse=True)
def scope():
    import mmdet.models  # noqa: F401

    with DefaultScope.overwrite_default_scope("mmdet"):
        yield


@pytest.fixture()
def config(tmp_path):
    """Two videos of one size in MMDetection's own format, and a small ByteTrack."""
    config = trackers.small("bytetrack")
    # Boxes found by chance make no track that a Kalman filter can follow.
    config.model.tracker.init_track_thr = 1.1
    videos, images = [], []
    for number in (1, 2):
        videos.append(dict(id=number, name=f"v{number}", width=160, height=96))
        (tmp_path / f"v{number}").mkdir()
        for t, frame in enumerate(trackers.video((96, 160), number, FRAMES)):
            name = f"v{number}/{t:03d}.jpg"
            assert cv2.imwrite(str(tmp_path / name), frame)
            images.append(
                dict(
                    id=len(images),
                    file_name=name,
                    height=96,
                    width=160,
                    video_id=number,
                    frame_id=t,
                    mot_frame_id=t + 1,
                )
            )
    ann = dict(
        videos=videos,
        images=images,
        annotations=[],
        categories=[dict(id=1, name="pedestrian")],
    )
    (tmp_path / "ann.json").write_text(json.dumps(ann))
    config.test_dataloader.update(num_workers=0, persistent_workers=False)
    config.test_dataloader.dataset.update(
        data_root=str(tmp_path), ann_file="ann.json", data_prefix=dict(img_path=""), test_mode=True
    )
    config.test_evaluator = dict(type="KeptTracks")
    for name in ("train_dataloader", "train_cfg", "optim_wrapper", "param_scheduler"):
        config[name] = None
    for name in ("val_dataloader", "val_evaluator", "val_cfg", "custom_hooks"):
        config[name] = None
    config.update(work_dir=str(tmp_path / "work"), launcher="none", load_from=None)
    config.pop("custom_hooks")
    config.default_hooks = dict()
    return config


@pytest.mark.parametrize("one_video", [False, True])
def test_each_video_of_the_frameworks_own_data_set_is_a_stream(config, one_video):
    hook = dict(
        type="blockcopy_plugins.BlockCopyHook",
        block_size=64,
        policy="none",
        one_video=one_video,
    )
    config.custom_hooks = [hook]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runner = Runner.from_cfg(config)
        (found,) = [h for h in runner.hooks if type(h).__name__ == "BlockCopyHook"]
        seen = []
        release = found._release
        found._release = lambda: (seen.append(found.handle.report()), release())
        metrics = runner.test()
    assert metrics["frames"] == 2 * FRAMES
    # The first frame of each video, and nothing else.
    assert seen[0].frames == 2 * FRAMES
    assert seen[0].executed_rate == pytest.approx(2 / (2 * FRAMES))


def test_a_tracker_in_a_video_inferencer(config):
    from mmdet.apis import init_track_model

    model = init_track_model(config, device="cpu")
    frames = trackers.video((96, 160), 1, FRAMES)
    wanted = [sample.pred_instances for sample in trackers.track(copy.deepcopy(model), frames)]
    with bc.VideoInferencer(model, bc.BlockCopyConfig(block_size=64, policy="all")) as infer:
        found = [output.prediction for output in infer(iter(frames))]
        assert [len(f.pred_track_instances) >= 0 for f in found] == [True] * FRAMES
        for mine, expected in zip(found, wanted, strict=True):
            assert len(mine.pred_instances) == len(expected) > 0
            torch.testing.assert_close(
                mine.pred_instances.scores, expected.scores, rtol=1e-3, atol=1e-4
            )
        assert infer.handle.report().frames == FRAMES
        with pytest.raises(ConfigError, match="a separate model for each"):
            next(infer.batch([iter(frames), iter(frames)]))
