"""TemporalConsistencyMetric on data samples: pairs of frames, several streams, processes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from blockcopy_plugins.errors import ConfigError, FrameError, StateError
from blockcopy_plugins.evaluation import OpticalFlow, TemporalConsistencyMetric
from blockcopy_plugins.integrations.common.video_shares import share_videos

SIZE = (64, 96)
CLASSES = 4


def picture(video, frame, shift=3):
    """A texture that moves to the right by some pixels a frame, uint8 (3, H, W)."""
    random = np.random.default_rng(video).integers(0, 255, (20, 60)).astype(np.float32)
    large = np.clip(cv2.resize(random, (240, 80), interpolation=cv2.INTER_CUBIC), 0, 255)
    left = 100 - shift * frame
    grey = large[8 : 8 + SIZE[0], left : left + SIZE[1]].astype(np.uint8)
    return torch.from_numpy(grey).expand(3, -1, -1)


def labels(video, frame, shift=3):
    """Columns of labels that move along with the texture."""
    columns = (np.arange(SIZE[1]) + 100 - shift * frame) // 12 % CLASSES
    return torch.from_numpy(np.broadcast_to(columns, SIZE).copy())


def sample(video, frame, found=None, **more):
    found = labels(video, frame) if found is None else found
    return dict(video_id=video, frame_id=frame, pred_sem_seg=dict(data=found[None]), **more)


def evaluate(keys, metric=None, found=labels, size=None):
    metric = metric or TemporalConsistencyMetric()
    for key in keys:
        metric.process({"inputs": [picture(*key)]}, [sample(*key, found=found(*key))])
    return metric.evaluate(len(keys) if size is None else size)


def frames_of(*lengths):
    return [(video, frame) for video, length in enumerate(lengths) for frame in range(length)]


def test_labels_that_move_along_are_consistent():
    result = evaluate(frames_of(5))
    assert result["video/temporal_pairs"] == 4
    assert result["video/temporal_consistency"] > 0.95
    assert 0.8 < result["video/temporal_share"] < 1


def test_labels_that_stay_while_the_picture_moves_are_not():
    """Columns of 12 px, moved by 3: a quarter of each differs, IoU about 9 / 15."""
    result = evaluate(frames_of(5), found=lambda video, frame: labels(video, 0))
    assert result["video/temporal_consistency"] == pytest.approx(9 / 15, abs=0.05)


def test_a_still_video_and_one_label():
    still = [{"inputs": [picture(0, 0)]}] * 3
    metric = TemporalConsistencyMetric(prefix="mine")
    for frame, batch in enumerate(still):
        metric.process(batch, [sample(0, frame, labels(0, 0))])
    found = metric.evaluate(3)
    assert found == {
        "mine/temporal_pairs": 2,
        "mine/temporal_consistency": 1,
        "mine/temporal_share": 1,
    }
    constant = torch.zeros(SIZE, dtype=torch.long)
    assert evaluate(frames_of(4), found=lambda *_: constant)["video/temporal_consistency"] == 1


class Dictated:
    """Instead of `FrameFlows`: all moves by so many pixels to the right."""

    def __init__(self, right):
        displacement = np.zeros((*SIZE, 2), np.float32)
        displacement[..., 0] = -right
        self.flow = OpticalFlow(displacement, np.ones(SIZE, bool))

    def __call__(self, keys, frames):
        return [self.flow for _ in keys]


def test_with_a_dictated_flow_by_hand():
    """Half of the frame is label 1 and stays, the flow goes 8 px to the right."""
    half = torch.zeros(SIZE, dtype=torch.long)
    half[:, 48:] = 1
    metric = TemporalConsistencyMetric()
    metric.flows = Dictated(8)
    result = evaluate(frames_of(3), metric, lambda *_: half)
    # Of 88 counted columns: label 0 in 48 warped, 40 present, 40 both; label 1 in 40, 48 and 40.
    assert result["video/temporal_consistency"] == pytest.approx(40 / 48)
    assert result["video/temporal_share"] == pytest.approx(88 / 96)


def test_first_frames_gaps_and_other_videos_make_no_pair():
    metric = TemporalConsistencyMetric()
    keys = [(0, 0), (0, 1), (0, 3), (0, 4), (1, 0), (2, 1)]
    result = evaluate(keys, metric)
    assert result["video/temporal_pairs"] == 2
    assert [r.key for r in metric.last_results if r.areas is not None] == [(0, 1), (0, 4)]
    assert evaluate([(0, 0)]) == {"video/temporal_pairs": 0}
    # Nor where the flow comes from elsewhere.
    dictated = TemporalConsistencyMetric()
    dictated.flows = Dictated(0)
    assert evaluate([(0, 0), (0, 2), (1, 3)], dictated)["video/temporal_pairs"] == 0
    # The last frame of an evaluation is not the first one's predecessor in the next.
    assert evaluate([(2, 2)], metric)["video/temporal_pairs"] == 0
    with pytest.raises(StateError, match="more than once"):
        evaluate([(0, 0), (0, 0)])


def test_several_streams_in_a_batch_give_the_same():
    alone = evaluate(frames_of(4, 3))
    assert alone["video/temporal_pairs"] == 5
    metric = TemporalConsistencyMetric()
    for frame in range(4):
        keys = [(video, frame) for video in ((0, 1) if frame < 3 else (0,))]
        metric.process({"inputs": [picture(*k) for k in keys]}, [sample(*k) for k in keys])
    assert metric.evaluate(7) == alone


def test_padding_is_left_out_and_the_scale_found():
    """Network inputs of half the size, padded on the right and below."""
    plain, padded = TemporalConsistencyMetric(), TemporalConsistencyMetric()
    for frame in range(3):
        small = torch.from_numpy(
            cv2.resize(picture(0, frame)[0].numpy(), (48, 32), interpolation=cv2.INTER_AREA)
        ).expand(3, -1, -1)
        wide = torch.zeros(3, 64, 64, dtype=torch.uint8)
        wide[:, :32, :48] = small
        plain.process({"inputs": [small]}, [sample(0, frame)])
        padded.process({"inputs": [wide]}, [sample(0, frame, scale_factor=(0.5, 0.5))])
    found = plain.evaluate(3)
    assert padded.evaluate(3) == found
    assert found["video/temporal_consistency"] > 0.8


def test_unfit_batches():
    metric = TemporalConsistencyMetric()
    with pytest.raises(ConfigError, match="no inputs"):
        metric.process({}, [sample(0, 0)])
    with pytest.raises(ConfigError, match="lacks pred_sem_seg"):
        metric.process({"inputs": []}, [dict(video_id=0, frame_id=0)])
    with pytest.raises(FrameError, match="uint8"):
        metric.process({"inputs": [picture(0, 0).float()]}, [sample(0, 0)])
    with pytest.raises(ConfigError, match="width"):
        TemporalConsistencyMetric(width=0)


def _in_a_process(rank, world_size, folder, lengths):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size
    )
    videos = share_videos(dict(enumerate(lengths)), world_size)[rank]
    keys = [key for key in frames_of(*lengths) if key[0] in videos]
    torch.save(evaluate(keys, size=sum(lengths)), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_give_what_one_gives(tmp_path):
    lengths = [4, 2, 3]
    torch.multiprocessing.spawn(_in_a_process, (2, str(tmp_path), lengths), nprocs=2)
    expected = evaluate(frames_of(*lengths))
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt") == expected
