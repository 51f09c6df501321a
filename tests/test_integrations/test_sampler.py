"""VideoSampler and VideoBatchSampler, alone and in two processes of torch.distributed."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.multiprocessing

pytest.importorskip("mmengine")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from mmengine.dataset import DefaultSampler  # noqa: E402

from blockcopy_plugins.errors import ConfigError  # noqa: E402
from blockcopy_plugins.integrations.common.video_shares import (  # noqa: E402
    lockstep,
    share_videos,
)
from blockcopy_plugins.integrations.mmengine.sampler import (  # noqa: E402
    VideoBatchSampler,
    VideoSampler,
)

lengths = st.lists(st.integers(1, 30), max_size=12)


class Frames:
    """As much of a dataset as the samplers use."""

    def __init__(self, video_lengths):
        self.ids = [v for v, n in enumerate(video_lengths) for _ in range(n)]

    def __len__(self):
        return len(self.ids)

    def video_of(self, index):
        return self.ids[index]


def test_one_process_gets_everything_in_order():
    sampler = VideoSampler(dataset=Frames([3, 1, 4]), seed=5)
    assert list(sampler) == list(range(8))
    assert len(sampler) == 8
    assert sampler.videos == [[0, 1, 2], [3], [4, 5, 6, 7]]


def test_shuffle_moves_whole_videos_and_each_epoch_differs():
    sampler = VideoSampler(Frames([3] * 20), shuffle=True, seed=1)
    orders = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        order = list(sampler)
        assert order == list(sampler)
        assert sorted(order) == list(range(60))
        for at in range(0, 60, 3):
            assert order[at] % 3 == 0
            assert order[at : at + 3] == list(range(order[at], order[at] + 3))
        orders.append(order)
    assert orders[0] != orders[1] != orders[2]


@given(lengths, st.integers(1, 5))
def test_shares_hold_each_video_once_and_are_balanced(video_lengths, world_size):
    by_id = dict(enumerate(video_lengths))
    shares = share_videos(by_id, world_size)
    assert len(shares) == world_size
    assert sorted(itertools.chain(*shares)) == sorted(by_id)
    assert all(share == sorted(share) for share in shares)
    loads = [sum(by_id[v] for v in share) for share in shares]
    # Longest first: no process is ahead of another one by more than one video.
    assert max(loads) - min(loads) <= max(video_lengths, default=0)
    assert shares == share_videos(dict(reversed(by_id.items())), world_size)


def test_shares_by_hand():
    assert share_videos({0: 10, 1: 40, 2: 20, 3: 15}, 2) == [[1], [0, 2, 3]]
    assert share_videos({0: 5}, 3) == [[0], [], []]


@given(lengths, st.integers(1, 5))
def test_lock_step(video_lengths, streams):
    dataset = Frames(video_lengths)
    batches = list(VideoBatchSampler(VideoSampler(dataset), streams))
    assert len(VideoBatchSampler(VideoSampler(dataset), streams)) == len(batches)
    assert sorted(itertools.chain(*batches)) == list(range(len(dataset)))
    running = []
    for batch in batches:
        videos = [dataset.video_of(i) for i in batch]
        assert len(set(videos)) == len(videos) <= streams
        # Who goes on keeps its order among the others.
        stay = [v for v in running if v in videos]
        assert [v for v in videos if v in stay] == stay
        running = videos
    for video in range(len(video_lengths)):
        own = [i for batch in batches for i in batch if dataset.video_of(i) == video]
        assert own == sorted(own)
        at = [n for n, b in enumerate(batches) if any(dataset.video_of(i) == video for i in b)]
        assert at == list(range(at[0], at[0] + len(own)))  # without a pause
    # Full as long as there is another video to begin.
    sizes = [len(batch) for batch in batches]
    assert sizes == sorted(sizes, reverse=True)


def test_lock_step_by_hand():
    assert list(lockstep([[0, 1, 2], [3], [4, 5]], 2)) == [[0, 3], [1, 4], [2, 5]]
    assert list(lockstep([[0, 1], [], [2]], 3)) == [[0, 2], [1]]
    assert list(lockstep([], 2)) == []


def test_unfit_arguments():
    with pytest.raises(ConfigError, match="list has none.*VideoFrameDataset"):
        VideoSampler([1, 2])
    sampler = VideoSampler(Frames([2]))
    with pytest.raises(ConfigError, match="needs a VideoSampler, but got DefaultSampler"):
        VideoBatchSampler(DefaultSampler(Frames([2])), 2)
    with pytest.raises(ConfigError, match="at least 1, but got 0"):
        VideoBatchSampler(sampler, 0)
    with pytest.raises(ConfigError, match="drop_last"):
        VideoBatchSampler(sampler, 2, drop_last=True)


def _sample_in_a_process(rank, world_size, folder, cases):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size
    )
    report = []
    for lengths in cases:
        sampler = VideoSampler(Frames(lengths))
        shuffled = VideoSampler(Frames(lengths), shuffle=True)
        report.append(
            dict(
                indices=list(sampler),
                length=len(sampler),
                batches=list(VideoBatchSampler(sampler, 2)),
                shuffled=sorted(shuffled),
                seed=shuffled.seed,
            )
        )
    torch.save(report, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_share_whole_videos(tmp_path):
    cases = [[5, 2, 4], [6]]
    torch.multiprocessing.spawn(_sample_in_a_process, (2, str(tmp_path), cases), nprocs=2)
    reports = [torch.load(tmp_path / f"{r}.pt", weights_only=False) for r in range(2)]
    (first, alone), (second, none) = reports
    assert first["indices"] == [0, 1, 2, 3, 4]
    assert second["indices"] == [5, 6, 7, 8, 9, 10]
    assert second["batches"] == [[5, 7], [6, 8], [9], [10]]
    assert (first["length"], second["length"]) == (5, 6)
    assert alone["indices"] == list(range(6))
    assert (none["indices"], none["batches"], none["length"]) == ([], [], 0)
    for report in reports:
        for case in report:
            assert case["shuffled"] == sorted(case["indices"])
    assert first["seed"] == second["seed"]
