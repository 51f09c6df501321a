"""Whole runs of the comparison, against figures worked out by hand."""

from __future__ import annotations

import math
from statistics import fmean

import numpy as np
import pytest
import torch

cv2 = pytest.importorskip("cv2")
pytest.importorskip("mmseg")

BLOCKS = 16
FRAMES = 17


def runs_of(result, policy):
    return {
        next(v for k, v in run["config"].items() if k in ("target", "rate", "n")): run
        for run in result["runs"]
        if run["policy"] == policy
    }


def figures(run, part="all"):
    return run["windows"][part]


def test_figures_of_a_segmentor(measure, segmentor, flipping_clip):
    """One block of sixteen changes in each frame; the oracle knows which."""
    content = measure(
        *("--model", segmentor, "--clip", flipping_clip(FRAMES)),
        *("--policies", "oracle", "EveryNthFramePolicy", "RandomPolicy", "FrameDifferencePolicy"),
        *("--targets", "0.03125,0.0625,0.5", "--periods", "3"),
    )
    (result,) = content["results"]
    assert result["figures"] == ["agreement", "fidelity_mIoU"]
    assert result["dense"]["windows"]["all"]["agreement"] == 1
    assert result["nothing"]["grid"] == [4, 4] and result["nothing"]["size"] == [128, 128]
    # Nothing runs: t blocks are wrong in frame t.
    nothing = figures(result["nothing"])
    assert nothing["executed_rate"] == pytest.approx(1 / FRAMES)
    assert nothing["agreement"] == pytest.approx(1 - fmean(range(FRAMES)) / BLOCKS)

    oracle = runs_of(result, "oracle")
    for target in (0.0625, 0.5):
        assert figures(oracle[target])["agreement"] == 1
        blocks = BLOCKS + (FRAMES - 1) * target * BLOCKS
        assert figures(oracle[target])["executed_rate"] == pytest.approx(blocks / BLOCKS / FRAMES)
    # A block every second frame: of the t that changed by then, half are wrong, rounded up.
    slow = figures(oracle[0.03125])
    wrong = fmean(math.ceil(t / 2) for t in range(FRAMES))
    assert slow["agreement"] == pytest.approx(1 - wrong / BLOCKS)
    assert slow["executed_rate"] == pytest.approx((BLOCKS + 8) / BLOCKS / FRAMES)

    third = figures(runs_of(result, "EveryNthFramePolicy")[3])
    assert third["executed_rate"] == pytest.approx(6 / 17)
    assert third["agreement"] == pytest.approx(1 - (5 * (0 + 1 + 2) + 0 + 1) / FRAMES / BLOCKS)

    # The same draws again, without the engine.
    for rate, run in runs_of(result, "RandomPolicy").items():
        draws = torch.Generator().manual_seed(0)
        grids = [torch.rand(1, 4, 4, generator=draws) < rate for _ in range(FRAMES)]
        executed = BLOCKS + sum(int(grid.sum()) for grid in grids[1:])
        assert figures(run)["executed_rate"] == pytest.approx(executed / BLOCKS / FRAMES)

    curves = {curve["policy"]: curve for curve in content["results"][0]["curves"]}
    assert curves["oracle"]["oracle"] and not curves["RandomPolicy"]["oracle"]
    best = curves["oracle"]["windows"]["all"]["agreement"]
    for curve in curves.values():
        found = curve["windows"]["all"]["agreement"]
        assert best["area"] >= found["area"] - 1e-9
        assert all(best["at"][rate] >= found["at"][rate] - 1e-9 for rate in found["at"])
    assert curves["RandomPolicy"]["windows"]["all"]["agreement"]["area"] < best["area"] - 0.01


def test_the_first_frames_have_figures_of_their_own(measure, segmentor, flipping_clip):
    content = measure(
        *("--model", segmentor, "--clip", flipping_clip(62), "--frames", 60),
        *("--policies", "EveryNthFramePolicy", "--periods", "60"),
    )
    (result,) = content["results"]
    (run,) = result["runs"]
    assert result["frames"] == [0, 60]

    def agreement(frames):
        # A block turns over in frame t, and back sixteen frames later.
        wrong = [min(t % 32, 32 - t % 32) for t in frames]
        return pytest.approx(1 - fmean(wrong) / BLOCKS)

    wanted = {"all": range(60), "first_50": range(50), "after_50": range(50, 60)}
    for part, frames in wanted.items():
        assert figures(run, part)["agreement"] == agreement(frames), part
    assert figures(run)["executed_rate"] == pytest.approx(1 / 60)
    assert figures(run, "first_50")["executed_rate"] == pytest.approx(1 / 50)
    assert figures(run, "after_50")["executed_rate"] == 0


def test_figures_of_a_detector(measure, detector, jumping_clip):
    """Found at half of the frame's size, told in the frame's pixels, compared with gt.txt."""
    clip, truth = jumping_clip(10)
    content = measure(
        *("--model", detector, "--clip", f"jumps={clip},ann={truth}"),
        *("--policies", "oracle", "EveryNthFramePolicy", "--targets", "0.125", "--periods", "2"),
    )
    (result,) = content["results"]
    assert result["figures"] == ["AP50", "fidelity_AP50", "fidelity_class_AP50"]
    assert figures(result["dense"]) == dict.fromkeys(["executed_rate", *result["figures"]], 1.0)
    # Two blocks change in each frame, of sixteen.
    assert figures(runs_of(result, "oracle")[0.125])["AP50"] == 1
    # Right, wrong, right, ...: the k-th right one of ten comes with a precision of k / (2k - 1).
    precisions = [1, *(k / (2 * k - 1) for k in range(1, 6) for _ in range(10)), *[0] * 50]
    found = figures(runs_of(result, "EveryNthFramePolicy")[2])
    assert found["AP50"] == pytest.approx(fmean(precisions), abs=1e-3)
    assert found["fidelity_AP50"] == found["fidelity_class_AP50"] == found["AP50"]


def test_labels_of_some_frames(measure, segmentor, flipping_clip, tmp_path):
    clip = flipping_clip(6)
    labels = tmp_path / "labels"
    labels.mkdir()
    for number in (2, 5):
        wanted = (cv2.imread(str(clip / f"{number:04d}.png"))[..., 0] > 0).astype(np.uint8)
        wanted[:32, -32:] = 11  # void
        cv2.imwrite(str(labels / f"{number:04d}.png"), wanted)
    content = measure(
        *("--model", segmentor, "--clip", f"a={clip},ann={labels},ignore_label=11"),
        *("--policies", "EveryNthFramePolicy", "--periods", "5"),
    )
    (result,) = content["results"]
    assert result["figures"][0] == "mIoU" and figures(result["dense"])["mIoU"] == 1
    # Frame 2 is shown as frame 0, two bright blocks short of it, frame 5 as it is, with four bright
    # blocks that count, as the fourth is void. Fifteen blocks count in each.
    dark, bright = (13 + 11) / (13 + 11 + 2), 4 / (4 + 2)
    assert figures(result["runs"][0])["mIoU"] == pytest.approx((dark + bright) / 2)


def test_learning_beforehand(measure, segmentor, flipping_clip):
    """The frames of the warm-up are not measured, and the policy has seen them."""
    clip = flipping_clip(12)
    common = ("--policies", "RLPolicy", "--targets", "0.5", "--model", segmentor)
    cold = measure(*common, "--clip", f"a={clip}:6-12", name="cold.json")
    warm = measure(
        *common, "--clip", f"a={clip}:6-12,warm_up=0-6", "--epochs", "2", name="warm.json"
    )
    for content in (cold, warm):
        assert content["results"][0]["frames"] == [6, 12]
    assert warm["results"][0]["epochs"] == 2 and cold["results"][0]["epochs"] == 0
    # Twelve frames of learning change what it draws afterwards.
    first, second = (c["results"][0]["runs"][0]["windows"] for c in (cold, warm))
    assert first != second


def test_configs_of_detectors_and_segmentors(measure, projects, tmp_path):
    """What is fully executed is the dense model, by law 1."""
    clip = tmp_path / "clip"
    clip.mkdir()
    for number, picture in enumerate(projects.pictures(4)):
        cv2.imwrite(str(clip / f"{number}.png"), picture)
    models = [*projects.write_detector(tmp_path), *projects.write_segmentor(tmp_path)]
    content = measure(
        *("--model", f"det={models[0]},weights={models[1]}"),
        *("--model", f"seg={models[2]},weights={models[3]}"),
        *("--clip", f"a={clip}", "--policies", "EveryNthFramePolicy", "oracle"),
        *("MotionVectorPolicy", "--targets", "0.5", "--periods", "1"),
    )
    detector, segmentor = content["results"]
    for result, figure in ((detector, "fidelity_AP50"), (segmentor, "agreement")):
        # Its clip is opened anew, in the detector's own scope too; pictures have no vectors.
        (refused,) = [run for run in result["runs"] if "reason" in run]
        assert refused["policy"] == "MotionVectorPolicy" and "no motion" in refused["reason"]
        whole = figures(runs_of(result, "EveryNthFramePolicy")[1])
        assert whole["executed_rate"] == 1 and whole[figure] > 0.999
        nothing = figures(result["nothing"])[figure]
        assert nothing < figures(runs_of(result, "oracle")[0.5])[figure] + 1e-9 and nothing < 0.999


@pytest.fixture
def panning_clip(tmp_path):
    """A blotchy picture that moves by 4 px to the right from frame to frame."""
    small = np.random.default_rng(0).integers(0, 256, (24, 24), dtype=np.uint8)
    world = cv2.resize(small, (384, 384), interpolation=cv2.INTER_CUBIC)
    folder = tmp_path / "pan"
    folder.mkdir()
    for number in range(10):
        left = 200 - 4 * number
        cv2.imwrite(str(folder / f"{number:04d}.png"), world[100:228, left : left + 128])
    return folder


def test_moved_outputs_stand_beside_copied_ones(measure, segmentor, panning_clip):
    content = measure(
        *("--model", segmentor, "--clip", panning_clip),
        *("--policies", "EveryNthFramePolicy", "oracle", "--periods", "5", "--targets", "0.5"),
        *("--propagate", "copy", "move", "auto", "--motion", "dict(type='DISMotion', cell=16)"),
    )
    (result,) = content["results"]
    runs = {run["policy"]: run for run in result["runs"]}
    way = "EveryNthFramePolicy"
    assert list(runs) == [way, "oracle", f"{way}, moved", f"{way}, moved if it pays"]
    copied, moved = runs[way], runs[f"{way}, moved"]
    assert moved["config"]["propagate"] == "move" and "propagate" not in copied["config"]
    assert figures(copied)["executed_rate"] == figures(moved)["executed_rate"] == 0.2
    # Of what comes in at the edge neither knows anything.
    loss = {name: 1 - figures(run)["agreement"] for name, run in (("c", copied), ("m", moved))}
    assert loss["m"] < 0.5 * loss["c"]
    assert moved["propagation"]["moved"] == 8 and moved["propagation"]["checks"] == 1
    assert "propagation" not in copied
