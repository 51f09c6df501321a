"""A tracker under a Runner with MMDetection's own data set, and in a VideoInferencer."""

from __future__ import annotations

import copy
import itertools
import json
import warnings

import pytest
import torch

import blockcopy_plugins as bc
from blockcopy_plugins.errors import ConfigError

pytest.importorskip("mmdet", reason="needs MMDetection")
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
    """A small ByteTrack with two videos."""
    pytest.importorskip("lap", reason="needs lap, as MMDetection's ByteTrack does")
    config = trackers.small("bytetrack")
    # Boxes found by chance make no track that a Kalman filter can follow.
    config.model.tracker.init_track_thr = 1.1
    return with_videos(config, tmp_path)


def with_videos(config, tmp_path, annotations=(), category="pedestrian"):
    """Two videos of one size in MMDetection's own format as the data set of a config."""
    videos, images = [], []
    for number in (1, 2):
        videos.append(dict(id=number, name=f"v{number}", width=160, height=96))
        (tmp_path / f"v{number}").mkdir(exist_ok=True)
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
        annotations=list(annotations),
        categories=[dict(id=1, name=category)],
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


@METRICS.register_module()
class NumbersOfTracks(BaseMetric):
    """How many tracks there are in each frame, and how many different ones in each video."""

    def process(self, data_batch, data_samples):
        for sample in data_samples:
            for frame in sample["video_data_samples"]:
                found, key = frame.pred_track_instances, (frame.video_id, frame.frame_id)
                self.results.append((*key, found.instances_id.tolist(), found.bboxes.sum()))

    def evaluate(self, size):
        return self.compute_metrics(self.results)

    def compute_metrics(self, results):
        found = {}
        for video, frame, ids, boxes in results:
            found[f"v{video}/{frame}/tracks"] = float(len(ids))
            found[f"v{video}/{frame}/boxes"] = float(boxes)
        for number in {video for video, *_ in results}:
            names = {i for video, _, ids, _ in results if video == number for i in ids}
            found[f"v{number}/names"] = float(len(names))
        return found


@pytest.fixture()
def own_tracks(tmp_path):
    """A small QDTrack, which takes any box for the beginning of a track."""
    config = trackers.small("qdtrack")
    config.model.tracker.update(init_score_thr=0.0, obj_score_thr=0.0)
    config = with_videos(config, tmp_path)
    config.test_evaluator = dict(type="NumbersOfTracks")
    return config


def both_runs(config, policy):
    """The metrics of the config's own test, and of the loop that runs both ways."""
    from blockcopy_plugins.integrations.mmengine import video_config, video_dataloader

    torch.manual_seed(0)
    runner = Runner.from_cfg(copy.deepcopy(config))
    weights = runner.model.state_dict()
    plain = runner.test()
    config = copy.deepcopy(config)
    hook = dict(type="blockcopy_plugins.BlockCopyHook", block_size=64, policy=policy)
    config.custom_hooks = [hook]
    loader = video_dataloader.video_dataloader(config)
    video_config.for_testing(config, loader, warmup=0)
    runner = Runner.from_cfg(config)
    runner.model.load_state_dict(weights)
    return plain, runner.test(), runner.test_loop


def part(metrics, name):
    return {k[len(name) + 1 :]: v for k, v in metrics.items() if k.startswith(f"{name}/v")}


@pytest.mark.parametrize("policy", ["all", "none"])
def test_dense_and_block_sparse_tracks_side_by_side(own_tracks, policy):
    plain, metrics, loop = both_runs(own_tracks, policy)
    assert len(plain) == 2 * (2 * FRAMES + 1)
    assert all(value > 0 for name, value in plain.items() if name.endswith("tracks"))
    # Neither run has a part in the other's tracks.
    assert part(metrics, "dense") == pytest.approx(plain, rel=1e-4)
    sparse = part(metrics, "blockcopy")
    if policy == "all":
        assert sparse == pytest.approx(plain, rel=1e-3)
        assert metrics["fidelity/bbox_AP"] == pytest.approx(1)
    else:
        # Frames of nothing have the boxes of their video's first.
        boxes = [[sparse[f"v{v}/{t}/boxes"] for t in range(FRAMES)] for v in (1, 2)]
        assert boxes == [[pytest.approx(b[0])] * FRAMES for b in boxes]
        assert sparse != pytest.approx(plain, rel=1e-4)
    rate = 1 if policy == "all" else 1 / FRAMES
    assert metrics["executed_rate"] == pytest.approx(rate)
    summary = loop.summary
    assert summary["frames"] == 2 * FRAMES and metrics["ms_dense"] > 0
    assert [video["frames"] for video in summary["videos"]] == [FRAMES] * 2
    assert summary["macs_dense"] > 0


def test_a_tracker_is_tested_on_its_own_dataset_alone(own_tracks):
    from blockcopy_plugins.integrations.mmengine import video_dataloader

    with pytest.raises(ConfigError, match="leave out --video"):
        video_dataloader.video_dataloader(own_tracks, ["street.mp4"])


@METRICS.register_module()
class TracksAsAnnotations(BaseMetric):
    """Writes the first tracks of each frame down as annotations in MMDetection's format."""

    kept: list[dict] = []

    def process(self, data_batch, data_samples):
        kept = type(self).kept
        for sample in data_samples:
            for frame in sample["video_data_samples"]:
                tracks = frame.pred_track_instances
                for box, mask, number in zip(
                    tracks.bboxes, tracks.masks.cpu(), tracks.instances_id.tolist(), strict=True
                ):
                    if not mask.any() or number > 5:
                        continue
                    x0, y0, x1, y1 = box.tolist()
                    # Runs of 0 and 1 in turn, column by column.
                    flat = mask.T.flatten().int().tolist()
                    runs = [len(list(same)) for _, same in itertools.groupby(flat)]
                    kept.append(
                        dict(
                            id=len(kept) + 1,
                            video_id=frame.video_id,
                            image_id=frame.img_id,
                            category_id=1,
                            instance_id=number,
                            bbox=[x0, y0, x1 - x0, y1 - y0],
                            area=int(mask.sum()),
                            segmentation=dict(
                                size=list(mask.shape), counts=runs if not flat[0] else [0, *runs]
                            ),
                            iscrowd=False,
                        )
                    )
        self.results = [0]

    def compute_metrics(self, results):
        return {}


def test_instances_of_videos_are_judged_dense_and_block_sparse(tmp_path):
    config = trackers.small("masktrack_rcnn")
    config.model.detector.roi_head.bbox_head.num_classes = 1
    config.model.detector.roi_head.mask_head.num_classes = 1
    config.randomness = dict(seed=0)
    # Masks of random weights are next to empty; so they are what lies in the boxes.
    config.model.detector.test_cfg.rcnn.mask_thr_binary = 0.0
    # The config's own only writes a file for a server that knows the annotations.
    own = dict(
        type="YouTubeVISMetric", metric="youtube_vis_ap", outfile_prefix=str(tmp_path / "results")
    )
    base = with_videos(copy.deepcopy(config), tmp_path, category="person")
    base.test_evaluator = dict(type="TracksAsAnnotations")
    TracksAsAnnotations.kept = []
    torch.manual_seed(0)
    Runner.from_cfg(base).test()
    assert len(TracksAsAnnotations.kept) > 2 * FRAMES
    config = with_videos(config, tmp_path, TracksAsAnnotations.kept, "person")
    config.test_evaluator = own
    found = {policy: both_runs(copy.deepcopy(config), policy) for policy in ("all", "none")}
    own_runs = [plain for plain, _, _ in found.values()]
    # What is annotated is among what is found.
    assert own_runs[0] == own_runs[1] and own_runs[0]["youtube_vis/segm_mAP_50"] > 0.01
    for _, metrics, _ in found.values():
        assert of_run(metrics, "dense") == pytest.approx(own_runs[0], abs=2e-3)
    assert of_run(found["all"][1], "blockcopy") == pytest.approx(own_runs[0], abs=2e-3)
    assert of_run(found["none"][1], "blockcopy") != pytest.approx(own_runs[0], abs=2e-3)


def of_run(metrics, run):
    """The metrics of one of the two runs, by the names of the config's own."""
    return {k[len(run) + 1 :]: v for k, v in metrics.items() if k.startswith(f"{run}/youtube_vis")}
