"""What was measured is kept, and a command that was stopped goes on where it was."""

from __future__ import annotations

import json

import pytest

from benchmarks.policies import experiment
from benchmarks.policies.__main__ import main

POLICIES = ("--policies", "EveryNthFramePolicy", "oracle", "--periods", "4,2", "--targets", "0.25")


@pytest.fixture
def counted(monkeypatch):
    """Names of the runs of policies that began; the third is interrupted, if that is asked for."""
    titles, original = [], experiment.run_policy

    def run(network, frames, options, on_answer, title, warm_up=None):
        titles.append(title)
        if len(titles) == run.interrupted:
            raise KeyboardInterrupt
        return original(network, frames, options, on_answer, title, warm_up)

    run.interrupted = None
    monkeypatch.setattr(experiment, "run_policy", run)
    return run, titles


def without_times(content):
    text = json.dumps(content["results"], sort_keys=True)
    found = json.loads(text)
    for result in found:
        for entry in (result["dense"], result["nothing"], *result["runs"], *result["curves"]):
            for key in ("ms", "cpu_ms", "policy_ms"):
                entry.pop(key, None)
    return found


def test_an_interrupted_command_goes_on(measure, segmentor, flipping_clip, counted, tmp_path):
    run, titles = counted
    common = ("--model", segmentor, "--clip", flipping_clip(6), *POLICIES)
    whole = measure(*common, name="whole.json")
    every_run = titles.copy()
    assert every_run[:3] == ["nothing", "EveryNthFramePolicy n=4", "EveryNthFramePolicy n=2"]
    assert len(every_run) == 5, "and what the oracle must know"

    titles.clear()
    run.interrupted = 3
    with pytest.raises(KeyboardInterrupt):
        measure(*common)
    left = json.loads((tmp_path / "out.json").read_text())
    assert [r["config"]["n"] for r in left["results"][0]["runs"]] == [4]
    assert left["results"][0]["curves"][0]["policy"] == "EveryNthFramePolicy"

    titles.clear()
    run.interrupted = None
    resumed = measure(*common, "--resume")
    assert titles == every_run[2:]
    assert without_times(resumed) == without_times(whole)

    titles.clear()
    again = measure(*common, "--resume")
    assert titles == [] and again == resumed
    more = measure(*common[:-1], "0.25,0.5", "--resume")
    assert titles[-1] == "oracle target=0.5" and len(more["results"][0]["runs"]) == 4
    assert more["results"][0]["runs"][:3] == resumed["results"][0]["runs"]


def test_figures_are_neither_lost_nor_mixed(measure, segmentor, flipping_clip, tmp_path):
    clip = flipping_clip(6)
    common = ("--model", segmentor, *POLICIES)
    measure(*common, "--clip", f"a={clip}")
    before = (tmp_path / "out.json").read_text()
    for arguments, message in (
        ((*common, "--clip", f"a={clip}"), "is there already; go on with it by --resume"),
        ((*common, "--clip", f"a={clip}:0-5", "--resume"), r"of frames=\[0, 6\], but \[0, 5\]"),
    ):
        with pytest.raises(SystemExit, match=message):
            measure(*arguments)
        assert (tmp_path / "out.json").read_text() == before
    both = measure(*common, "--clip", f"a={clip}", "--clip", f"b={clip}:0-5", "--resume")
    assert [result["clip"] for result in both["results"]] == ["a", "b"]
    assert str(tmp_path) not in json.dumps(both), "no path of this machine"
    for content, message in (("{", "is no JSON"), ('{"runs": []}', "no figures of this version")):
        (tmp_path / "other.json").write_text(content)
        with pytest.raises(SystemExit, match=message):
            measure(*common, "--clip", f"a={clip}", "--resume", name="other.json")


def test_a_policy_that_cannot_run_is_noted(segmentor, flipping_clip, tmp_path, capsys):
    path = tmp_path / "out.json"
    wrong = "dict(type='FrameDifferencePolicy', threshold=0.1)"  # and a target: not both
    common = ["--model", segmentor, "--clip", f"a={flipping_clip(4)}", "--json", str(path)]
    common += ["--block-size", "32", "--targets", "0.5", "--periods", "2"]
    main([*common, "--policies", wrong, "EveryNthFramePolicy", "--pictures", str(tmp_path / "p")])
    bad, good = json.loads(path.read_text())["results"][0]["runs"]
    assert "give threshold or target, not both" in bad["reason"] and "reason" not in good
    out = capsys.readouterr()
    assert "give threshold or target" in out.err
    assert "| EveryNthFramePolicy |" in out.out and "| FrameDifferencePolicy" not in out.out
    assert (tmp_path / "p" / "tiny_segmentor_a.png").exists()
    # It is tried again, and stands in the file once.
    main([*common, "--policies", wrong, "--resume"])
    assert len(json.loads(path.read_text())["results"][0]["runs"]) == 2
