"""The test loop that runs a tracker on its own dataset densely and block-sparsely."""

from __future__ import annotations

import copy
from typing import Any

from mmengine.evaluator import Evaluator

from ...errors import ConfigError
from ...registry import LOOPS
from ..common.frame_entry import FrameEntry
from ..common.paired_runs import PairedRuns
from .hook import find_hook, unwrap
from .loops import BlockCopyTestLoop
from .task import TrackingTask


@LOOPS.register_module()
class BlockCopyTrackingLoop(BlockCopyTestLoop):
    """Tests a tracker of MMDetection, each frame dense and block-sparse, by its own metrics.

    Data set and metrics are the config's own: MOTA, IDF1 and HOTA of ``MOTChallengeMetric``, AP of
    ``YouTubeVISMetric``. Each run has tracks of its own, so neither sees what the other has found.
    ``fidelity`` is the average precision of the block-sparse tracks' boxes, with those of the dense
    run as ground truth.

    Its arguments are those of :class:`BlockCopyTestLoop`, without consistency.

    Raises:
        ConfigError: If the model is no tracker, or the metrics are objects.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._dense_tracks: Any = None

    def run(self) -> dict[str, float]:
        """See :meth:`BlockCopyTestLoop.run`."""
        self._dense_tracks = copy.deepcopy(unwrap(self.runner.model).tracker)
        try:
            return super().run()
        finally:
            self._dense_tracks = None

    def _frames(self) -> int:
        return self.dataloader.dataset.num_all_imgs

    def _check_dataset(self) -> None:
        if not isinstance(self.task, TrackingTask):
            raise ConfigError(
                f"BlockCopyTrackingLoop is for trackers, but the model is a "
                f"{type(unwrap(self.runner.model)).__name__}. Use "
                "test_cfg=dict(type='blockcopy_plugins.BlockCopyTestLoop')."
            )

    def _run_batch(self, data_batch: dict, runs: PairedRuns) -> list[Any]:
        (frames,), (whole,) = data_batch["inputs"], data_batch["data_samples"]
        entries: list[FrameEntry] = []
        # Metrics get what the batch is: a whole video, or one frame of it.
        clips: dict[str, list[Any]] = {name: [] for name in (*self.evaluators, "blockcopy")}
        for place, sample in enumerate(whole.video_data_samples):
            info = dict(sample.metainfo)
            info["video_length"] = info.get("ori_video_length", len(frames))
            self._start_videos([info], runs)
            given = {**data_batch, "inputs": [frames[place : place + 1]]}

            def fresh(given: dict = given, sample: Any = sample) -> dict:
                return {**given, "data_samples": [_clip(whole, [sample.clone()])]}

            found = runs.run(self._step, fresh, info)
            entries += self._compared(found, [info])
            for name, clip in clips.items():
                clip += found.outputs[name][0].video_data_samples
        for name, evaluator in self.evaluators.items():
            evaluator.process(data_samples=[_clip(whole, clips[name])], data_batch=data_batch)
        self.last_entries = tuple(entries)
        return [_clip(whole, clips["blockcopy"])]

    def _step(self, data: dict) -> list[Any]:
        """A test step with the tracks of its run."""
        model = unwrap(self.runner.model)
        if not find_hook(self.runner).handle.is_paused:
            return self.runner.model.test_step(data)
        own, model.tracker = model.tracker, self._dense_tracks
        try:
            return self.runner.model.test_step(data)
        finally:
            model.tracker = own

    def _build_evaluator(self, evaluator: Any, run: str) -> Evaluator:
        if isinstance(evaluator, Evaluator):
            raise ConfigError(
                "test_evaluator has metrics that are built, and both runs would write to the same "
                "files; expected their configs, as in dict(type='MOTChallengeMetric')."
            )
        configs = copy.deepcopy(evaluator)
        for config in configs if isinstance(configs, (list, tuple)) else [configs]:
            if config.get("outfile_prefix"):
                config["outfile_prefix"] = f"{config['outfile_prefix']}/{run}"
        return self.runner.build_evaluator(configs)


def _clip(whole: Any, frames: list[Any]) -> Any:
    """Some frames of a video as MMDetection packs them, a ``TrackDataSample``."""
    clip = type(whole)(metainfo=whole.metainfo)
    clip.video_data_samples = frames
    return clip
