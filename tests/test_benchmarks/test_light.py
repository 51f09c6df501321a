"""The benchmark of light networks: what it writes, for networks of both kinds."""

from __future__ import annotations

import json

import pytest

from benchmarks import light


def test_each_network_has_its_size_and_a_row_for_each_rate(tmp_path, capsys):
    pytest.importorskip("mmdet")
    file = tmp_path / "light.json"
    models = "light_segmentor,yolox_nano@96x128"
    command = ["--models", models, "--sizes", "64x96,72x96", "--rates", "1,0.5", "--threads", "1"]
    command += ["--dtypes", "float32,bfloat16"]
    light.main([*command, "--repeats", "2", "--warmup", "3", "--clock", "cpu", "--json", str(file)])
    found = json.loads(file.read_text())
    assert found["benchmark"] == "light" and found["settings"]["models"] == models.split(",")
    networks = found["networks"]
    assert [(n["model"], n["size"], n["dtype"]) for n in networks] == [
        ("light_segmentor", [64, 96], "float32"),
        ("light_segmentor", [64, 96], "bfloat16"),
        ("light_segmentor", [72, 96], "float32"),
        ("light_segmentor", [72, 96], "bfloat16"),
        ("yolox_nano", [96, 128], "float32"),
        ("yolox_nano", [96, 128], "bfloat16"),
    ]
    for network in networks:
        assert [row["rate"] for row in network["rows"]] == [1.0, 0.5]
        for row in network["rows"]:
            e = network["dense_ms"] / row["sparse_ms"] * row["rate"]
            assert row["efficiency"] == pytest.approx(e)
    assert "yolox_nano 96x128 bfloat16: dense" in capsys.readouterr().out
