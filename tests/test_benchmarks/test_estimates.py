"""The check of estimates: what it writes, and that rows of other runs stay."""

from __future__ import annotations

import json

import pytest

from benchmarks import estimates


def test_ratios_are_predicted_over_measured_and_other_rows_stay(tmp_path, capsys):
    file = tmp_path / "estimates.json"
    other = dict(model="other", size=[1, 2], dtype="float32", threads=1, block_size=16)
    file.write_text(json.dumps(dict(networks=[other])))
    command = ["--models", "light_segmentor@64x96", "--block-size", "32", "--rates", "1,0.5"]
    command += ["--repeats", "2", "--warmup", "3", "--clock", "cpu", "--budget", "0.5"]
    for _ in range(2):
        estimates.main([*command, "--json", str(file)])
    kept, found = json.loads(file.read_text())["networks"]
    assert kept == other
    assert (found["model"], found["size"], found["threads"]) == ("light_segmentor", [64, 96], 1)
    assert found["machine"]["threads"] == 1 and found["settings"]["clock"] == "cpu"
    assert found["measured_on"] == [[64, 96]] and found["replayed"] > 0
    assert found["dense_ratio"] == pytest.approx(found["predicted_dense_ms"] / found["dense_ms"])
    assert [(row["rate"], row["executed"]) for row in found["rows"]] == [(1.0, 1.0), (0.5, 0.5)]
    for row in found["rows"]:
        sparse = row["model_ms"] + row["policy_ms"]
        assert row["speedup"] == pytest.approx(found["dense_ms"] / sparse)
        predicted = row["predicted_model_ms"] + row["predicted_policy_ms"]
        assert row["sparse_ratio"] == pytest.approx(predicted / sparse)
        wanted = found["predicted_dense_ms"] / predicted
        assert row["predicted_speedup"] == pytest.approx(wanted)
        assert row["speedup_ratio"] == pytest.approx(wanted / row["speedup"])
    assert "light_segmentor 64x96 float32: dense" in capsys.readouterr().out


def test_whole_detectors_are_called_as_their_users_do():
    pytest.importorskip("mmdet")
    subject = estimates.build_subject("whole:mask-rcnn_r18-thin_fpn", "float32")
    assert subject.is_contiguous, "mmcv's RoIAlign takes any map for one"
    import torch

    with torch.no_grad():
        (sample,) = subject.call(subject.model, torch.randn(1, 3, 64, 96))
    assert sample.pred_instances.masks.shape[1:] == (64, 96)
