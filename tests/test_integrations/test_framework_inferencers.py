"""``blockcopy_`` on what the frameworks' own functions and inferencers for images return."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch

import blockcopy_plugins as bc
import blockcopy_plugins.errors
from blockcopy_plugins.errors import FrameError, StateError

pytest.importorskip("mmdet")
pytest.importorskip("mmseg")

from tests.test_integrations import tiny_projects as projects  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
CONFIG = bc.BlockCopyConfig(block_size=projects.BLOCK, policy="all")


def partly(seed=0):
    """Another random grid in each frame."""
    generator = torch.Generator().manual_seed(seed)
    return lambda frame, context: torch.rand(context.grid_shape, generator=generator) < 0.4


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Config, weights; and the pictures once more as files, whose names are in order."""
    import cv2

    folder = tmp_path_factory.mktemp("inferencers")
    (folder / "frames").mkdir()
    frames = projects.pictures(6)
    for i, frame in enumerate(frames):
        assert cv2.imwrite(str(folder / f"frames/{i:03d}.png"), frame)
    return dict(
        det=projects.write_detector(folder),
        seg=projects.write_segmentor(folder),
        frames=frames,
        paths=[str(folder / f"frames/{i:03d}.png") for i in range(len(frames))],
    )


class Detector:
    """What is asked of a kind of model, so that each test is there for both."""

    same = staticmethod(projects.same_detections)

    @staticmethod
    def init(files):
        from mmdet.apis import init_detector

        return init_detector(*map(str, files["det"]), device="cpu")

    @staticmethod
    def infer(model, image):
        from mmdet.apis import inference_detector

        return inference_detector(model, image)

    @staticmethod
    def inferencer(files):
        from mmdet.apis import DetInferencer

        return DetInferencer(*map(str, files["det"]), device="cpu", show_progress=False)


class Segmentor(Detector):
    same = staticmethod(projects.same_labels)

    @staticmethod
    def init(files):
        from mmseg.apis import init_model

        return init_model(*map(str, files["seg"]), device="cpu")

    @staticmethod
    def infer(model, image):
        from mmseg.apis import inference_model

        return inference_model(model, image)

    @staticmethod
    def inferencer(files):
        from mmseg.apis import MMSegInferencer

        return MMSegInferencer(*map(str, files["seg"]), device="cpu", show_progress=False)


@pytest.fixture(params=[Detector, Segmentor], scope="module")
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def pristine(kind, files):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return kind.init(files)


@pytest.fixture()
def model(pristine):
    return copy.deepcopy(pristine)


def samples(inferencer, images, **options):
    """The data samples of an inferencer; it gives one alone where there is one."""
    keyword = "return_datasamples"
    found = inferencer(images, **{keyword: True}, **options)
    found = found["predictions"] if isinstance(found, dict) else found
    return found if isinstance(found, list) else [found]


def test_all_blocks_are_the_dense_model_and_restore_gives_it_back(kind, model, files):
    frames = files["frames"][:3]
    wanted = [kind.infer(model, frame) for frame in frames]
    keys = list(model.state_dict())

    bc.blockcopy_(model, CONFIG)
    for frame, want in zip(frames, wanted, strict=True):
        kind.same(kind.infer(model, frame), want)
    assert bc.report(model).frames == 3
    assert list(model.state_dict()) == keys

    bc.restore_(model)
    assert "forward" not in vars(model)
    again = kind.infer(model, frames[1])
    kind.same(again, wanted[1])
    with pytest.raises(bc.errors.ConfigError):
        bc.report(model)


def test_calls_are_frames_of_one_stream(kind, model, files):
    """Without video ids image i of a call is stream i; each call has one image."""
    bc.blockcopy_(model, bc.BlockCopyConfig(block_size=projects.BLOCK, policy="none"))
    first = kind.infer(model, files["frames"][0])
    later = kind.infer(model, files["frames"][5])
    kind.same(later, first)  # nothing was executed: features of the first frame

    bc.reset_(model)
    fresh = kind.infer(model, files["frames"][5])
    bc.restore_(model)
    kind.same(fresh, kind.infer(model, files["frames"][5]))


def test_a_list_of_images_is_a_list_of_frames(kind, model, files):
    """MMDetection runs a list image by image, MMSegmentation as one batch, of whom nobody says."""
    bc.blockcopy_(model, bc.BlockCopyConfig(block_size=projects.BLOCK, policy=partly()))
    if kind is Segmentor:
        with pytest.raises(FrameError, match="cameras name them"):
            kind.infer(model, files["frames"][:3])
        return
    kind.infer(model, files["frames"][:3])
    assert bc.handle(model).states.ids() == [0]
    assert bc.report(model).frames == 3


def test_streams_of_several_cameras_are_named_by_hand(kind, model, files):
    """Else the second camera would meet the features of the first one."""
    other = projects.pictures(1, seed=9)[0]
    want = kind.infer(model, other)
    bc.blockcopy_(model, bc.BlockCopyConfig(block_size=projects.BLOCK, policy="none"))
    with bc.streams(model, ["cam0"]):
        kind.infer(model, files["frames"][0])
    with bc.streams(model, ["cam1"]):
        kind.same(kind.infer(model, other), want)
    assert sorted(bc.handle(model).states.ids()) == ["cam0", "cam1"]


def test_a_picture_of_another_size_is_refused_and_says_what_to_do(kind, model, files):
    bc.blockcopy_(model, bc.BlockCopyConfig(block_size=projects.BLOCK, policy="none"))
    first = kind.infer(model, files["frames"][0])
    with pytest.raises(FrameError, match="reset_"):
        kind.infer(model, files["frames"][0][:, :90])
    kind.same(kind.infer(model, files["frames"][1]), first)  # the stream is as it was

    bc.reset_(model)
    kind.infer(model, files["frames"][0][:, :90])


def test_inferencer_with_all_blocks_is_the_dense_inferencer(kind, files):
    inferencer = kind.inferencer(files)
    images = files["frames"][:4]
    wanted = samples(inferencer, images)
    bc.blockcopy_(inferencer, CONFIG)
    for found in (samples(inferencer, images), samples(inferencer, images, batch_size=2)):
        assert len(found) == len(wanted)
        for one, want in zip(found, wanted, strict=True):
            kind.same(one, want)
    by_path = samples(inferencer, files["paths"][:4])
    kind.same(by_path[3], wanted[3])
    bc.restore_(inferencer)
    kind.same(samples(inferencer, images)[0], wanted[0])


def test_inferencer_keeps_its_stream_between_calls(kind, model, files):
    """The same frames in one call, in several, and by the framework's function: one stream."""
    config = bc.BlockCopyConfig(block_size=projects.BLOCK, policy=partly())
    bc.blockcopy_(model, config)
    wanted = [kind.infer(model, frame) for frame in files["frames"]]
    dense_inferencer = kind.inferencer(files)
    dense = samples(dense_inferencer, files["frames"])
    bc.blockcopy_(
        dense_inferencer.model, bc.BlockCopyConfig(block_size=projects.BLOCK, policy=partly())
    )
    found = samples(dense_inferencer, files["frames"][:4])
    found += samples(dense_inferencer, files["frames"][4:])
    for one, want in zip(found, wanted, strict=True):
        kind.same(one, want)
    rate = bc.report(dense_inferencer.model).executed_rate
    assert 0.3 < rate < 0.7
    with pytest.raises(AssertionError):  # and it was no dense run in disguise
        for one, want in zip(found, dense, strict=True):
            kind.same(one, want)


def test_what_an_inferencer_has_given_is_not_changed_by_later_frames(kind, files):
    inferencer = kind.inferencer(files)
    bc.blockcopy_(inferencer.model, bc.BlockCopyConfig(block_size=projects.BLOCK, policy=partly()))
    given = samples(inferencer, files["frames"][:2])
    copies = copy.deepcopy(given)
    samples(inferencer, files["frames"][2:])
    for one, copied in zip(given, copies, strict=True):
        kind.same(one, copied)


def test_consecutive_frames_in_one_batch_run_one_after_the_other(kind, files):
    """Of an inferencer that is converted itself, and of the files of one folder."""
    inferencer = kind.inferencer(files)
    dense = samples(inferencer, files["frames"][:1])
    nothing = bc.BlockCopyConfig(block_size=projects.BLOCK, policy="none")
    for owner, images in (
        (inferencer, files["frames"][:5]),
        (inferencer.model, files["paths"][:5]),
    ):
        bc.blockcopy_(owner, nothing)
        for found in samples(inferencer, images, batch_size=2):
            kind.same(found, dense[0])
        assert bc.report(owner).frames == 5
        assert len(bc.handle(owner).states.ids()) == 1
        bc.restore_(owner)


def test_pictures_in_memory_at_once_are_refused_until_they_are_named(kind, files):
    inferencer = kind.inferencer(files)
    bc.blockcopy_(inferencer.model, CONFIG)
    with pytest.raises(FrameError, match=r"bc.blockcopy_\(inferencer"):
        samples(inferencer, files["frames"][:2], batch_size=2)
    with bc.streams(inferencer.model, ["cam0", "cam1"]):
        samples(inferencer, files["frames"][:2], batch_size=2)
    bc.restore_(inferencer.model)
    bc.blockcopy_(inferencer, CONFIG)
    samples(inferencer, files["frames"][:2], batch_size=2)
    assert bc.report(inferencer).frames == 2


def test_a_batch_of_one_stream_is_refused(kind, model, files):
    from mmengine.dataset import pseudo_collate

    from blockcopy_plugins.datasets.live_pipeline import LivePipeline

    prepare = LivePipeline(model.cfg.test_dataloader.dataset.pipeline, model.cfg.default_scope)
    items = []
    for i, frame in enumerate(files["frames"][:2]):
        inputs, sample = prepare(frame, i, "clip")
        sample.set_metainfo(dict(video_id=0, frame_id=i))
        items.append(dict(inputs=inputs, data_samples=sample))
    bc.blockcopy_(model, CONFIG)
    with pytest.raises(StateError, match="one after the other"):
        model.test_step(pseudo_collate(items))
