"""The streaming inferencer: results of the test tool, one frame at a time, nothing kept."""

from __future__ import annotations

import copy
import gc
import subprocess
import sys
import threading
import time
import tracemalloc
import warnings
import weakref

import numpy as np
import pytest
import torch

import blockcopy_plugins as bc
from blockcopy_plugins.errors import ConfigError, FrameError, StateError

pytest.importorskip("mmdet")
pytest.importorskip("mmseg")
pytest.importorskip("av")

from tests.test_integrations import tiny_projects as projects  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
BLOCK, SIZE = projects.BLOCK, projects.SIZE


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inferencer")
    return dict(
        folder=folder,
        detector=projects.write_detector(folder, hook=True),
        segmentor=projects.write_segmentor(folder),
        clip=projects.tiny_detector.write_clip(folder / "clip.mp4", 9, seed=1),
    )


@pytest.fixture(scope="module")
def pristine(files):
    """Models of the frameworks' own functions."""
    from mmdet.apis import init_detector
    from mmseg.apis import init_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dict(
            detector=init_detector(*map(str, files["detector"]), device="cpu"),
            segmentor=init_model(*map(str, files["segmentor"]), device="cpu"),
        )


@pytest.fixture()
def detector(pristine):
    return copy.deepcopy(pristine["detector"])


@pytest.fixture()
def segmentor(pristine):
    return copy.deepcopy(pristine["segmentor"])


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    gc.collect()
    end = time.monotonic() + 5
    while not set(threading.enumerate()) <= before:
        assert time.monotonic() < end, threading.enumerate()
        time.sleep(0.005)


def options(policy="all", **more):
    return dict(block_size=BLOCK, policy=policy, **more)


def by_stream_and_frame(frame, context):
    """Grids that depend on the stream and its frame alone, not on who else is in the batch."""
    grids = []
    for stream, number in zip(context.streams, context.frame_index, strict=True):
        generator = torch.Generator().manual_seed(1000 * (stream + 1) + number)
        grids.append(torch.rand(context.grid_shape[1:], generator=generator) < 0.4)
    return torch.stack(grids)


def in_the_test_tool(config_path, weights, clip, policy):
    """Data samples and grids of tools/test_video.py for a clip."""
    from mmengine.hooks import Hook
    from mmengine.runner import Runner

    from blockcopy_plugins.integrations.mmengine import find_hook, video_config, video_dataloader

    class Keep(Hook):
        priority = "LOWEST"

        def __init__(self):
            self.samples, self.grids = [], []

        def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            self.samples += copy.deepcopy(outputs)
            self.grids += list(find_hook(runner).handle.last.grid)

    config = video_config.read_config(str(config_path))
    video_config.set_options(config, policy=policy)
    video_config.hook_of(config)["block_size"] = BLOCK
    loader = video_dataloader.video_dataloader(config, [str(clip)])
    video_config.set_weights(config, str(weights))
    config.work_dir = str(clip.parent / "work")
    video_config.for_testing(config, loader, dense=False, mac_samples=0)
    config.log_level = "ERROR"
    runner = Runner.from_cfg(config)
    keep = Keep()
    runner.register_hook(keep)
    runner.test()
    return keep.samples, keep.grids


POLICIES = {
    "learned": dict(type="RLPolicy", target=0.3, seed=0),
    "frame difference": dict(type="FrameDifferencePolicy", target=0.3),
    "background subtraction": dict(type="BackgroundSubtractionPolicy", target=0.3),
    "motion detection": dict(type="MotionDetectionPolicy", target=0.3, persist=0),
    "motion vectors": dict(type="MotionVectorPolicy", threshold=4.0),
}


@pytest.mark.parametrize("kind", ["detector", "segmentor"])
@pytest.mark.parametrize("policy", POLICIES)
def test_results_are_those_of_the_test_tool(files, pristine, kind, policy):
    config, weights = files[kind]
    wanted, grids = in_the_test_tool(config, weights, files["clip"], POLICIES[policy])
    assert len(wanted) == 9 and len({grid.sum().item() for grid in grids}) > 1

    model = copy.deepcopy(pristine[kind])
    with bc.VideoInferencer(model, options(POLICIES[policy])) as inferencer:
        outputs = list(inferencer(files["clip"]))
    assert [o.index for o in outputs] == list(range(9))
    for output, want, grid in zip(outputs, wanted, grids, strict=True):
        assert torch.equal(output.grid, grid)
        if kind == "detector":
            found, want = output.prediction.pred_instances, want.pred_instances
            assert len(want) >= 3
            assert torch.equal(found.bboxes, want.bboxes)
            assert torch.equal(found.scores, want.scores)
            assert np.array_equal(found.masks, want.masks)
        else:
            assert torch.equal(output.prediction.seg_logits.data, want.seg_logits.data)
            assert len(want.pred_sem_seg.data.unique()) > 1


def test_what_an_output_tells(files, detector):
    with bc.VideoInferencer(detector, options("every_nth_frame")) as inferencer:
        assert inferencer.metainfo["classes"] == ("thing",)
        outputs = list(inferencer(files["clip"]))
    with bc.VideoInferencer(detector, options()) as inferencer:
        assert all(o.executed_rate == 1 for o in inferencer(files["clip"]))
    for i, output in enumerate(outputs):
        assert (output.source, output.index, output.restarted) == (0, i, i == 0)
        assert output.time == pytest.approx(i / 10)
        assert output.frame.shape == (*SIZE, 3) and output.frame.dtype == np.uint8
        assert output.grid.dtype == torch.bool
        assert output.grid.shape == (SIZE[0] // BLOCK, SIZE[1] // BLOCK)
        assert output.executed_rate == output.grid.float().mean().item()
        assert output.ms_model > 0 and output.ms_policy >= 0
        assert (output.dropped, output.corrupt) == (0, 0)
        assert output.prediction.metainfo["frame_number"] == i
    assert outputs[0].executed_rate == 1 and outputs[1].executed_rate == 0


def test_frames_of_all_kinds_of_sources_give_the_same(files, segmentor):
    import cv2

    folder = files["folder"] / "as_images"
    folder.mkdir(exist_ok=True)
    with bc.VideoInferencer(segmentor, options(by_stream_and_frame)) as inferencer:
        wanted = list(inferencer(files["clip"]))
        for output in wanted:
            cv2.imwrite(str(folder / f"{output.index}.png"), output.frame)
        arrays = [output.frame for output in wanted]
        for source in (folder, str(folder), arrays, iter(arrays), (a for a in arrays)):
            found = list(inferencer(source))
            assert len(found) == len(wanted)
            for one, want in zip(found, wanted, strict=True):
                assert torch.equal(one.grid, want.grid)
                assert torch.equal(one.prediction.seg_logits.data, want.prediction.seg_logits.data)


def inference_detector(model, frame):
    """MMDetection's; the scope is a global of MMEngine, and other tests use MMSegmentation's."""
    from mmdet.apis import inference_detector
    from mmengine.registry import DefaultScope

    with DefaultScope.overwrite_default_scope("mmdet"):
        return inference_detector(copy.deepcopy(model), frame)


def test_all_blocks_are_the_model_of_the_framework(files, detector):
    frames = projects.pictures(3)
    wanted = [inference_detector(detector, frame) for frame in frames]
    with bc.VideoInferencer(detector, options()) as inferencer:
        for output, want in zip(inferencer(frames), wanted, strict=True):
            projects.same_detections(output.prediction, want)
            dense, ms = inferencer.run_dense(output.frame)
            projects.same_detections(dense, want)
            assert ms > 0


def test_run_dense_leaves_the_stream_alone(segmentor):
    frames = projects.pictures(4)
    with bc.VideoInferencer(segmentor, options("none")) as inferencer:
        first = None
        for output in inferencer(frames):
            inferencer.run_dense(frames[3])
            first = first or output
            projects.same_labels(output.prediction, first.prediction)
        assert inferencer.handle.report().frames == 4


# ---------------------------------------------------------------------- ways to make one


def test_config_and_weights_give_what_the_framework_builds(files, pristine):
    for kind in ("detector", "segmentor"):
        config, weights = files[kind]
        with bc.VideoInferencer(
            str(config), options(by_stream_and_frame), weights=weights, device="cpu"
        ) as inferencer:
            assert inferencer.metainfo["classes"] == (
                ("thing",) if kind == "detector" else projects.tiny_segmentor.CLASSES
            )
            built = list(inferencer(files["clip"]))
        model = copy.deepcopy(pristine[kind])
        with bc.VideoInferencer(model, options(by_stream_and_frame)) as inferencer:
            wanted = list(inferencer(files["clip"]))
        same = projects.same_detections if kind == "detector" else projects.same_labels
        for one, want in zip(built, wanted, strict=True):
            same(one.prediction, want.prediction)


def test_models_of_the_inferencers_for_images(files):
    """They change their model's config: their own loader stands in the pipeline."""
    from mmdet.apis import DetInferencer
    from mmseg.apis import MMSegInferencer

    for kind, make in (("detector", DetInferencer), ("segmentor", MMSegInferencer)):
        theirs = make(*map(str, files[kind]), device="cpu", show_progress=False)
        wanted = theirs(projects.pictures(1)[0], return_datasamples=True)
        wanted = wanted["predictions"][0] if isinstance(wanted, dict) else wanted
        with bc.VideoInferencer(theirs.model, options()) as inferencer:
            (output,) = inferencer(projects.pictures(1))
        same = projects.same_detections if kind == "detector" else projects.same_labels
        same(output.prediction, wanted)


def test_options_come_from_the_models_config(detector, segmentor, files):
    with bc.VideoInferencer(detector) as inferencer:
        config = inferencer.handle.config
        assert (config.block_size, inferencer.handle.policy.target) == (32, 0.3)
    with bc.VideoInferencer(segmentor) as inferencer:  # which has no hook: the defaults
        assert inferencer.handle.config.block_size == 128
    config = bc.BlockCopyConfig(block_size=64, policy="none", strict=True)
    with bc.VideoInferencer(detector, config) as inferencer:
        assert inferencer.handle.config is config


def test_guards(detector):
    given = options("none", guards=[dict(type="MaxAge", frames=3)])
    with bc.VideoInferencer(detector, given) as inferencer:
        rates = [output.executed_rate for output in inferencer(projects.pictures(7))]
    assert rates == [1, 0, 0, 1, 0, 0, 1]
    with pytest.raises(ConfigError, match="no guard 'MaxAgee'"):
        bc.VideoInferencer(detector, options(guards=["MaxAgee"]))


def test_learned_policy_is_loaded(detector, tmp_path):
    from blockcopy_plugins.integrations.mmengine import save_policy
    from blockcopy_plugins.policy import build_policy

    policy = build_policy(dict(type="RLPolicy", target=0.3, seed=5))
    save_policy(policy, tmp_path / "policy.pth")
    given = options(
        dict(type="RLPolicy", target=0.3, seed=6), policy_checkpoint=tmp_path / "policy.pth"
    )
    with bc.VideoInferencer(detector, given) as inferencer:
        for name, value in inferencer.handle.policy.net.state_dict().items():
            assert torch.equal(value, policy.net.state_dict()[name])


def test_mistakes_say_what_to_do(files, detector, tmp_path):
    config, weights = files["detector"]
    with pytest.raises(ConfigError, match="weights="):
        bc.VideoInferencer(detector, weights=weights)
    with pytest.raises(ConfigError, match="no config"):
        bc.VideoInferencer(torch.nn.Conv2d(3, 3, 3))
    with pytest.raises(ConfigError, match="BlockCopyConfig"):
        bc.VideoInferencer(detector, "all")
    with pytest.raises(ConfigError, match="blok_size.*block_size"):
        bc.VideoInferencer(detector, dict(blok_size=64))
    with pytest.raises(ConfigError, match="nowhere.py"):
        bc.VideoInferencer("nowhere.py")
    with pytest.raises(ConfigError, match="nowhere.pth"):
        bc.VideoInferencer(config, weights="nowhere.pth")
    with pytest.raises(ConfigError, match="fit the model"):
        bc.VideoInferencer(config, weights=files["segmentor"][1])
    bc.blockcopy_(detector, bc.BlockCopyConfig(block_size=BLOCK))
    with pytest.raises(ConfigError, match="restore_"):
        bc.VideoInferencer(detector)
    bc.restore_(detector)
    from blockcopy_plugins.integrations.mmengine import BlockCopyBackbone

    detector.backbone = BlockCopyBackbone(detector.backbone)
    with pytest.raises(ConfigError, match="without that wrapper"):
        bc.VideoInferencer(detector)


def test_import_needs_no_framework():
    code = (
        "import sys, blockcopy_plugins as bc\n"
        "from blockcopy_plugins import *\n"
        "assert not {'mmengine', 'mmdet', 'cv2', 'av'} & set(sys.modules)\n"
        "assert bc.VideoInferencer.__name__ == 'VideoInferencer' and 'mmengine' in sys.modules\n"
        "try:\n    bc.NoSuchName\n"
        "except AttributeError as error:\n    assert 'NoSuchName' in str(error)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_without_the_framework_it_says_what_to_install():
    code = (
        "import sys\n"
        "sys.modules['mmengine'] = None\n"
        "import blockcopy_plugins as bc\n"
        "try:\n    bc.VideoInferencer\n"
        "except ImportError as error:\n    assert 'pip install' in str(error), error\n"
        "else:\n    raise SystemExit('it was imported')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# ---------------------------------------------------------------------- streams


def test_a_source_is_a_stream_that_ends_with_it(segmentor):
    frames = projects.pictures(4)
    with bc.VideoInferencer(segmentor, options("none")) as inferencer:
        for _ in range(2):
            outputs = inferencer(frames)
            assert [o.executed_rate for o in outputs] == [1, 0, 0, 0]
            assert inferencer.handle.states.ids() == []
            assert inferencer.handle.states.bytes() == 0


def test_frames_of_another_size_begin_the_stream_anew(detector):
    small = [frame[:96, :128].copy() for frame in projects.pictures(3, seed=2)]
    frames = projects.pictures(2) + small + projects.pictures(2)
    with bc.VideoInferencer(detector, options("none")) as inferencer:
        outputs = list(inferencer(frames))
        dense = inferencer.run_dense(small[0])[0]
    assert [o.restarted for o in outputs] == [True, False, True, False, False, True, False]
    assert [o.executed_rate == 1 for o in outputs] == [o.restarted for o in outputs]
    assert outputs[4].frame.shape == (96, 128, 3)
    projects.same_detections(outputs[4].prediction, dense)


def test_what_was_lost_on_the_way_is_counted(segmentor):
    frames = projects.pictures(5)
    frames[2] = None
    with bc.VideoInferencer(segmentor, options("none")) as inferencer:
        outputs = list(inferencer(frames))
    assert [(o.index, o.corrupt) for o in outputs] == [(0, 0), (1, 0), (3, 1), (4, 1)]
    assert [o.restarted for o in outputs] == [True, False, False, False]  # the stream goes on


def test_late_frames_of_a_live_source_are_dropped_and_counted(segmentor, monkeypatch):
    from blockcopy_plugins.datasets import live_source
    from blockcopy_plugins.datasets.live_frame import LiveFrame

    class Camera:
        live, frame_rate, length, corrupt = True, 100.0, None, 0

        def __init__(self, *arguments):
            self.closed = False

        def __iter__(self):
            for i, image in enumerate(projects.pictures(60)):
                yield LiveFrame(i, i / 100, image)
                time.sleep(0.005)

        def close(self):
            self.closed = True

    monkeypatch.setattr(live_source, "LiveCamera", Camera)
    with bc.VideoInferencer(segmentor, options("none")) as inferencer:
        outputs = []
        for output in inferencer(0):
            outputs.append(output)
            time.sleep(0.03)
    assert outputs[-1].index == 59 and outputs[-1].dropped == 60 - len(outputs) > 10
    assert outputs[-1].time == 0.59


def test_two_loops_at_once_are_two_streams(segmentor):
    first, second = projects.pictures(3), projects.pictures(3, seed=4)
    with bc.VideoInferencer(segmentor, options("none")) as inferencer:
        one, two = inferencer(first), inferencer(second)
        pairs = [(next(one), next(two)) for _ in range(3)]
        assert sorted(inferencer.handle.states.ids()) == [0, 1]
        for number, frames in enumerate((first, second)):
            want = inferencer.run_dense(frames[0])[0]
            for pair in pairs:
                projects.same_labels(pair[number].prediction, want)
        one.close()
        assert inferencer.handle.states.ids() == [1]


# ---------------------------------------------------------------------- several sources in step


@pytest.mark.parametrize("kind", ["detector", "segmentor"])
def test_sources_in_step_give_what_each_gives_alone(pristine, kind):
    """The streams that share a call do not touch each other, and one may end before the others."""
    model = copy.deepcopy(pristine[kind])
    sources = [projects.pictures(n, seed=n, speed=n) for n in (5, 3, 4)]
    with bc.VideoInferencer(model, options(by_stream_and_frame)) as inferencer:
        rounds = list(inferencer.batch(sources))
        calls = inferencer.handle.totals.calls
        assert inferencer.handle.states.ids() == []
    assert [[o.source for o in r] for r in rounds] == [[0, 1, 2]] * 3 + [[0, 2], [0]]
    assert calls == len(rounds)

    same = projects.same_detections if kind == "detector" else projects.same_labels
    for number, source in enumerate(sources):

        def alone(frame, context, number=number):
            moved = [number] * len(context.streams)
            return by_stream_and_frame(frame, _Moved(context, moved))

        with bc.VideoInferencer(model, options(alone)) as inferencer:
            wanted = list(inferencer(source))
        found = [o for r in rounds for o in r if o.source == number]
        assert [o.index for o in found] == list(range(len(source)))
        for one, want in zip(found, wanted, strict=True):
            assert torch.equal(one.grid, want.grid)
            same(one.prediction, want.prediction)


class _Moved:
    """A policy context under other stream ids."""

    def __init__(self, context, streams):
        self.context, self.streams = context, streams

    def __getattr__(self, name):
        return getattr(self.context, name)


def test_sources_of_two_sizes_go_by_separate_calls(detector):
    large = projects.pictures(3)
    high = [np.ascontiguousarray(f.transpose(1, 0, 2)) for f in projects.pictures(3, seed=3)]
    with bc.VideoInferencer(detector, options("none")) as inferencer:
        rounds = list(inferencer.batch([large, high, large]))
        assert inferencer.handle.totals.calls == 2 * 3
        wanted = [inferencer.run_dense(frames[0])[0] for frames in (large, high, large)]
    assert [[o.source for o in r] for r in rounds] == [[0, 1, 2]] * 3
    for outputs in rounds:
        for output, want in zip(outputs, wanted, strict=True):
            projects.same_detections(output.prediction, want)
    assert len({o.grid.shape for o in rounds[0]}) == 2


def test_no_sources_are_no_rounds(segmentor):
    with bc.VideoInferencer(segmentor, options()) as inferencer:
        assert list(inferencer.batch([])) == []
        assert list(inferencer([])) == []
        assert [len(r) for r in inferencer.batch([[], projects.pictures(2)])] == [1, 1]


# ---------------------------------------------------------------------- nothing is kept


def test_no_output_is_kept(files, segmentor):
    with bc.VideoInferencer(segmentor, options(POLICIES["learned"])) as inferencer:
        gone = []
        for output in inferencer(files["clip"]):
            assert all(ref() is None for ref in gone[:-3]), "an earlier frame is still there"
            gone += [weakref.ref(output), weakref.ref(output.frame), weakref.ref(output.prediction)]
            del output
        gc.collect()
    assert len(gone) == 27 and all(ref() is None for ref in gone)


def live_tensors():
    """Number and bytes of all tensors that there are."""
    gc.collect()
    found = [o for o in gc.get_objects() if type(o) is torch.Tensor]
    # Those of other layouts, which other tests have made, have no memory of their own.
    found = [tensor for tensor in found if tensor.layout is torch.strided]
    return len(found), sum(t.untyped_storage().nbytes() for t in found)


def test_nothing_piles_up_over_hundreds_of_frames(segmentor):
    clip = projects.pictures(10)
    frames = (clip[i % 10].copy() for i in range(300))
    seen = {}
    with bc.VideoInferencer(segmentor, options(POLICIES["frame difference"])) as inferencer:
        for output in inferencer(frames):
            if output.index in (50, 299):
                seen[output.index] = (*live_tensors(), sys.getallocatedblocks())
    count, size, blocks = (b - a for a, b in zip(seen[50], seen[299], strict=True))
    assert count == 0 and size == 0
    # An output that is kept is a dozen Python objects; caches (tables of grids) fill up meanwhile.
    assert blocks < 3 * 249


@pytest.mark.slow
def test_memory_is_constant(segmentor):
    """The buffers of arrays too, and what the process has."""
    psutil = pytest.importorskip("psutil")
    clip = projects.pictures(10, size=(480, 640))
    frames = (clip[i % 10].copy() for i in range(600))
    seen = {}
    tracemalloc.start()
    try:
        with bc.VideoInferencer(segmentor, options(POLICIES["learned"])) as inferencer:
            for output in inferencer(frames):
                if output.index in (100, 599):
                    gc.collect()
                    traced = tracemalloc.get_traced_memory()[0]
                    seen[output.index] = (traced, psutil.Process().memory_info().rss)
    finally:
        tracemalloc.stop()
    traced, resident = (b - a for a, b in zip(seen[100], seen[599], strict=True))
    assert traced < clip[0].nbytes  # not even one of 500 frames
    assert resident < 20 * clip[0].nbytes


def test_many_sources_leave_nothing(segmentor):
    frames = projects.pictures(1)
    with bc.VideoInferencer(segmentor, options("none")) as inferencer:
        for _ in range(30):
            list(inferencer(frames))
        assert inferencer._streams == {}
        assert inferencer.handle.states.ids() == []


# ---------------------------------------------------------------------- the end


class Trouble(Exception):
    pass


@pytest.mark.parametrize("leave", ["break", "exception", "interrupt", "close"])
def test_leaving_the_loop_ends_the_reading_and_the_stream(files, detector, leave):
    before = set(threading.enumerate())
    with bc.VideoInferencer(detector, options("none")) as inferencer:
        try:
            outputs = inferencer(files["clip"])
            for output in outputs:
                assert set(threading.enumerate()) > before  # it does read in the background
                if output.index < 1:
                    continue
                if leave == "break":
                    break
                if leave == "exception":
                    raise Trouble
                if leave == "interrupt":
                    raise KeyboardInterrupt
                outputs.close()
        except (Trouble, KeyboardInterrupt):
            pass
        del outputs
        gc.collect()
        assert set(threading.enumerate()) <= before
        assert inferencer.handle.states.ids() == []
        # And it can be used again.
        assert len(list(inferencer(files["clip"]))) == 9


def test_closing_restores_the_model(files, detector):
    frame = projects.pictures(1)[0]
    want = inference_detector(detector, frame)
    keys = list(detector.state_dict())
    with pytest.raises(Trouble):
        with bc.VideoInferencer(detector, options("none")) as inferencer:
            outputs = inferencer(files["clip"])
            next(outputs)
            raise Trouble
    with pytest.raises(ConfigError):
        bc.handle(detector)
    assert "forward" not in vars(detector) and list(detector.state_dict()) == keys
    projects.same_detections(inference_detector(detector, frame), want)
    inferencer.close()  # twice does nothing
    assert list(outputs) == []
    with pytest.raises(StateError, match="closed"):
        next(inferencer(files["clip"]))
    bc.VideoInferencer(detector, options()).close()  # and it can be converted again


def test_source_that_fails_ends_the_loop_with_its_error(segmentor):
    def failing():
        yield from projects.pictures(2)
        raise Trouble("the cable is out")

    with bc.VideoInferencer(segmentor, options("none")) as inferencer:
        found = []
        with pytest.raises(Trouble, match="cable"):
            for output in inferencer(failing()):
                found.append(output.index)
        assert found == [0, 1] and inferencer.handle.states.ids() == []
        with pytest.raises(FrameError, match="nowhere.mp4"):
            next(inferencer("nowhere.mp4"))
        with pytest.raises(FrameError, match="nowhere.mp4"):
            next(inferencer.batch([projects.pictures(1), "nowhere.mp4"]))
        assert inferencer._streams == {}


def test_pipeline_without_a_packed_picture_is_refused(detector):
    detector.cfg.test_dataloader.dataset.pipeline = [
        dict(type="LoadImageFromFile"),
        dict(type="Resize", scale=(160, 128)),
    ]
    with bc.VideoInferencer(detector, options()) as inferencer:
        with pytest.raises(ConfigError, match="PackDetInputs"):
            next(inferencer(projects.pictures(1)))


def test_frames_of_a_file_are_prepared_beside_the_model(files):
    from blockcopy_plugins.datasets.live_source import LiveSource
    from blockcopy_plugins.integrations.mmengine.prepared_frames import PreparedFrames

    def prepare(image, index, name):
        places.append(threading.get_ident())
        return image.sum(), index

    images = list(LiveSource(files["clip"]))
    for source, is_beside in ((files["clip"], True), ([i.image for i in images], False)):
        places = []
        frames = PreparedFrames(LiveSource(source), prepare)
        found = [frames.take() for _ in range(len(images) + 1)]
        frames.close()
        assert found.pop() is None
        assert [f.sample for f in found] == [i.index for i in images]
        assert [f.inputs for f in found] == [i.image.sum() for i in images]
        assert (threading.get_ident() not in places) == is_beside


def test_what_fails_beside_the_model_is_told_where_the_frame_is_asked_for(files):
    from blockcopy_plugins.datasets.live_source import LiveSource
    from blockcopy_plugins.integrations.mmengine.prepared_frames import PreparedFrames

    def prepare(image, index, name):
        if index == 3:
            raise ConfigError("no inputs")
        return image, index

    frames = PreparedFrames(LiveSource(files["clip"]), prepare)
    assert [frames.take().sample for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ConfigError, match="no inputs"):
        frames.take()
    frames.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("blockcopy-prepare")]
