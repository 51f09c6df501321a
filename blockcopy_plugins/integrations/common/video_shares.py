"""How videos are dealt to processes and to batches, whole and with their frames in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence


def share_videos(lengths: dict[int, int], world_size: int) -> list[list[int]]:
    """Deal whole videos to processes, balanced by their number of frames.

    Args:
        lengths: Number of frames by video id.
        world_size: Number of processes.

    Returns:
        The video ids of each process, ascending. Each video is in exactly one share.
    """
    shares: list[list[int]] = [[] for _ in range(world_size)]
    loads = [0] * world_size
    for video in sorted(lengths, key=lambda v: (-lengths[v], v)):
        rank = loads.index(min(loads))
        shares[rank].append(video)
        loads[rank] += lengths[video]
    return [sorted(share) for share in shares]


def lockstep(videos: Sequence[Sequence[int]], streams: int) -> Iterator[list[int]]:
    """Batches of one frame each from up to ``streams`` videos.

    Args:
        videos: The indices of each video's frames.
        streams: Number of videos that run at the same time.

    Yields:
        Indices, one of each running video; a video that has ended is replaced at once.
    """
    waiting = deque(deque(video) for video in videos if video)
    running: list[deque[int]] = []
    while waiting or running:
        # A video that starts takes the place of one that ended; the others keep theirs.
        running = [v or (waiting.popleft() if waiting else v) for v in running]
        running = [v for v in running if v]
        while waiting and len(running) < streams:
            running.append(waiting.popleft())
        if running:
            yield [video.popleft() for video in running]
