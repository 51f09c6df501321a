"""What a comparison of dense and block-sparse execution records for each frame."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class FrameEntry:
    """One image of one call; time and MACs of a batch are divided by its images.

    Attributes:
        video_id: Index of the video in its dataset.
        frame_id: Index of the frame in its video's selected frames; 0 is executed fully.
        video_name: Name of the video.
        size: ``(H, W)`` of the network input, px.
        grid: ``(GH, GW)``, blocks of the network input.
        executed_rate: Executed blocks / all blocks.
        macs_blocks: MACs that ran on executed blocks.
        macs_blocks_dense: MACs of the same ops on the whole map.
        macs_densified: MACs of ops that got blocks and ran on the whole map.
        macs_outside: MACs outside both (RoI heads), ``None`` if they were not counted.
        macs_outside_dense: The same in the dense run.
        ms_dense: Milliseconds of the dense test step, ``None`` if it did not run.
        ms_blockcopy: Milliseconds of the block-sparse test step, including the policy.
        ms_policy: The policy's part of it, including learning.
        timed: Whether its times count: it is not a warm-up, and its MACs were not counted.
        scalars: What the policy reports for logs.
        frame_number: Number of the frame in its file, folder or stream, from 0, also counting
            frames that could not be read or were not selected.
    """

    video_id: int
    frame_id: int
    video_name: str
    size: tuple[int, int]
    grid: tuple[int, int]
    executed_rate: float
    macs_blocks: float
    macs_blocks_dense: float
    macs_densified: float
    macs_outside: float | None
    macs_outside_dense: float | None
    ms_dense: float | None
    ms_blockcopy: float
    ms_policy: float
    timed: bool
    scalars: dict[str, float] = field(default_factory=dict)
    frame_number: int | None = None

    @property
    def key(self) -> tuple[int, int]:
        """Video and frame: unique within a dataset."""
        return self.video_id, self.frame_id
