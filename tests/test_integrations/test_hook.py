"""The hook in real Runners: conversion and restoration, videos, checkpoints, policies, logs."""

from __future__ import annotations

import copy
import logging
import warnings

import pytest
import torch

pytest.importorskip("mmdet")

from mmengine.config import ConfigDict  # noqa: E402
from mmengine.evaluator import BaseMetric, Evaluator  # noqa: E402
from mmengine.hooks import Hook  # noqa: E402
from mmengine.runner import Runner  # noqa: E402
from torch.utils.data import Dataset  # noqa: E402

import blockcopy_plugins as bc  # noqa: E402
from blockcopy_plugins.errors import ConfigError, FrameError  # noqa: E402
from blockcopy_plugins.integrations.mmengine import BlockCopyHook, save_policy  # noqa: E402
from blockcopy_plugins.policy import RLPolicy  # noqa: E402

SIZE = (64, 96)
HOOK = dict(type="blockcopy_plugins.BlockCopyHook", block_size=32, policy="all")


class Videos(Dataset):
    """Frames of videos one after the other; ``videos`` are ``(id, number of frames)``."""

    metainfo = dict(classes=("a", "b", "c"))

    def __init__(self, tiny, videos, first_frame=0) -> None:
        self.tiny = tiny
        self.frames = [(v, first_frame + t) for v, length in videos for t in range(length)]

    def __len__(self):
        return len(self.frames)

    def __getitem__(self, index):
        video, frame = self.frames[index]
        return dict(
            inputs=self.tiny.picture(SIZE, seed=100 * video + frame),
            data_samples=self.tiny.sample(SIZE, video, frame),
        )


class Results(BaseMetric):
    """Keeps what the model found."""

    default_prefix = "test"

    def __init__(self, found) -> None:
        super().__init__()
        self.found = found

    def process(self, data_batch, data_samples):
        self.found += [
            copy.deepcopy(dict(sample["pred_instances"].items())) for sample in data_samples
        ]
        self.results.append(len(data_samples))

    def compute_metrics(self, results):
        return dict(count=sum(results))


class Watch(Hook):
    """Notes at each iteration what the model looks like."""

    priority = "LOWEST"

    def __init__(self) -> None:
        self.records, self.loops = [], []

    def note(self, runner):
        hook = next(h for h in runner.hooks if isinstance(h, BlockCopyHook))
        last = hook.handle.last
        whole = last.grid.flatten(1).all(1).tolist()
        self.records.append((last.streams, whole, hook.handle.states.ids()))

    def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.note(runner)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.note(runner)

    def before_test_epoch(self, runner):
        self.loops.append("_blockcopy" in runner.model.__dict__)

    before_val_epoch = before_test_epoch


def loader(dataset, batch_size=1):
    return dict(
        batch_size=batch_size,
        num_workers=0,
        dataset=dataset,
        sampler=dict(type="DefaultSampler", shuffle=False),
        collate_fn=dict(type="pseudo_collate"),
    )


@pytest.fixture()
def make(tiny, tmp_path):
    """``make(videos, hook=..., **config)`` gives a Runner with ``found`` and ``watch``."""
    number = iter(range(99))

    def runner(videos=((0, 2),), hook=HOOK, val=False, batch_size=1, first_frame=0, **config):
        found = []
        loop = "val" if val else "test"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = Runner(
                **{
                    **{
                        "model": ConfigDict(tiny.mask_rcnn()),
                        f"{loop}_dataloader": loader(Videos(tiny, videos, first_frame), batch_size),
                        f"{loop}_cfg": {},
                        f"{loop}_evaluator": Evaluator(Results(found)),
                        "custom_hooks": [] if hook is None else [hook],
                        "default_scope": "mmdet",
                        "work_dir": str(tmp_path),
                        "experiment_name": f"{tmp_path.name}-{next(number)}",
                        "log_level": "ERROR",
                    },
                    **config,
                }
            )
        tiny.with_weights(made.model)
        made.found, made.watch = found, Watch()
        made.register_hook(made.watch)
        return made

    return runner


def run(runner, loop="test"):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        getattr(runner, loop)()
    return runner.found


def same(found, wanted):
    assert len(found) == len(wanted) > 0
    for a, b in zip(found, wanted, strict=True):
        assert len(b["scores"]) >= 3
        assert torch.equal(a["labels"], b["labels"])
        torch.testing.assert_close(a["scores"], b["scores"], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(a["bboxes"], b["bboxes"], rtol=1e-3, atol=2e-2)


@pytest.mark.parametrize("val", [False, True])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_all_blocks_give_the_results_of_the_plain_runner(make, val, batch_size):
    videos, loop = ((0, 2), (1, 2)), "val" if val else "test"
    plain = make(videos, val=val, batch_size=batch_size, hook=None)
    plain._hooks.remove(plain.watch)
    wanted = run(plain, loop)
    if batch_size == 2:  # Both frames of a batch are of one video: one stream cannot take two.
        runner = make(videos, val=val, batch_size=batch_size)
        with pytest.raises(bc.errors.StateError, match="expected 2 different ids"):
            run(runner, loop)
        return
    runner = make(videos, val=val)
    same(run(runner, loop), wanted)
    assert runner.watch.loops == [True]
    assert [w for _, w, _ in runner.watch.records] == [[True]] * 4


def test_the_model_is_restored_after_the_loop(make):
    runner = make()
    before = {k: v.clone() for k, v in runner.model.state_dict().items()}
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in runner.model.modules()]
    run(runner)
    assert "forward" not in runner.model.__dict__ and "_blockcopy" not in runner.model.__dict__
    after = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in runner.model.modules()]
    assert after == hooks
    assert all(torch.equal(v, before[k]) for k, v in runner.model.state_dict().items())
    hook = next(h for h in runner.hooks if isinstance(h, BlockCopyHook))
    with pytest.raises(ConfigError, match="no test or validation is running"):
        _ = hook.handle
    run(runner)  # And it can be tested again.
    assert runner.watch.loops == [True, True]


def test_videos_are_streams_and_start_anew(make):
    runner = make(((4, 3), (7, 2), (4, 2)), hook={**HOOK, "policy": "none"})
    run(runner)
    assert [streams for streams, _, _ in runner.watch.records] == [
        (4,),
        (4,),
        (4,),
        (7,),
        (7,),
        (4,),
        (4,),
    ]
    assert [whole for _, (whole,), _ in runner.watch.records] == [
        True,
        False,
        False,
        True,
        False,
        True,
        False,
    ]
    # A video that is over has given its state back.
    assert all(len(live) == 1 for _, _, live in runner.watch.records)


def test_a_dataset_that_begins_in_mid_video(make):
    runner = make(((0, 2),), hook={**HOOK, "policy": "none"}, first_frame=5)
    run(runner)
    run(runner)
    assert [whole for _, (whole,), _ in runner.watch.records] == [True, False] * 2


def test_interleaved_videos_keep_their_state(make, tiny):
    dataset = Videos(tiny, ())
    dataset.frames = [(0, 0), (1, 0), (0, 1), (1, 1)]
    for interleaved in (False, True):
        hook = {**HOOK, "policy": "none", "interleaved": interleaved}
        runner = make(hook=hook, test_dataloader=loader(dataset))
        run(runner)
        wanted = [True, True, False, False] if interleaved else [True] * 4
        assert [whole for _, (whole,), _ in runner.watch.records] == wanted


def test_guards_hold_in_each_video_of_each_loop(make):
    guards = [dict(type="MaxAge", frames=3)]
    runner = make(((4, 5), (7, 2), (4, 4)), hook={**HOOK, "policy": "none", "guards": guards})
    once = [True, False, False, True, False] + [True, False] + [True, False, False, True]
    for _ in range(2):
        run(runner)
    assert [whole for _, (whole,), _ in runner.watch.records] == 2 * once


def test_the_policy_is_kept_between_validations(make):
    runner = make(((0, 6),), val=True, hook={**HOOK, "policy": dict(type="RLPolicy", seed=0)})
    hook = next(h for h in runner.hooks if isinstance(h, BlockCopyHook))
    policy = hook.policy
    run(runner, "val")
    updates = policy.updates
    assert updates > 0
    run(runner, "val")
    assert hook.policy is policy and policy.updates > updates
    # The first frame of the second validation is a first frame for model and policy alike.
    assert [w for _, (w,), _ in runner.watch.records][::6] == [True, True]


def test_the_policy_starts_from_a_checkpoint(make, tmp_path):
    trained = RLPolicy(seed=3)
    save_policy(trained, tmp_path / "policy.pth")
    hook = {
        **HOOK,
        "policy": dict(type="RLPolicy"),
        "policy_checkpoint": str(tmp_path / "policy.pth"),
    }
    found = next(h for h in make(hook=hook).hooks if isinstance(h, BlockCopyHook)).policy
    for name, value in found.net.state_dict().items():
        assert torch.equal(value, trained.net.state_dict()[name])
    for bad, match in (
        (dict(policy_checkpoint=str(tmp_path / "none.pth")), "no policy file"),
        (dict(policy="all"), "holds a RLPolicy, but the config's policy is a AllPolicy"),
    ):
        with pytest.raises(ConfigError, match=match):
            BlockCopyHook(**{k: v for k, v in {**hook, **bad}.items() if k != "type"})


def test_weights_are_loaded_before_the_conversion(make, tiny, tmp_path):
    """A checkpoint of the plain model is what the converted one runs with."""
    torch.save(
        dict(state_dict=tiny.build(tiny.mask_rcnn(), seed=5).state_dict()), tmp_path / "w.pth"
    )
    plain = make(hook=None, load_from=str(tmp_path / "w.pth"))
    plain._hooks.remove(plain.watch)
    wanted = run(plain)
    runner = make(load_from=str(tmp_path / "w.pth"))
    same(run(runner), wanted)
    assert len(wanted) == 2


def test_a_failed_loop_does_not_spoil_the_next(make, monkeypatch):
    runner = make()
    forward = type(runner.model).extract_feat
    monkeypatch.setattr(type(runner.model), "extract_feat", lambda self, x: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(runner)
    monkeypatch.setattr(type(runner.model), "extract_feat", forward)
    run(runner)
    assert "forward" not in runner.model.__dict__ and len(runner.found) == 2


def test_figures_reach_the_log(make, caplog):
    runner = make(((0, 3),), hook={**HOOK, "policy": "none"})
    logger = logging.getLogger("mmengine")
    with caplog.at_level(logging.INFO):
        runner.logger.setLevel(logging.INFO)
        runner.logger.addHandler(caplog.handler)
        run(runner)
    assert "executed rate" in caplog.text and "33.3%" in caplog.text, logger.name
    scalars = runner.message_hub.log_scalars["test/blockcopy/executed_rate"].data[0]
    assert list(scalars) == [1.0, 0.0, 0.0]


def test_outputs_move_in_a_runner_and_the_log_says_how_well(make, caplog):
    def motion(frame, context):
        return [(4, 0)] * len(frame)

    policy = dict(type="EveryNthFramePolicy", n=3)
    runner = make(
        ((0, 4), (1, 3)), hook={**HOOK, "policy": policy, "propagate": "move", "motion": motion}
    )
    with caplog.at_level(logging.INFO):
        runner.logger.setLevel(logging.INFO)
        runner.logger.addHandler(caplog.handler)
        found = run(runner)
    assert "4 of 5 frames moved (approximate), 4 needed no network" in caplog.text
    limit = torch.tensor([SIZE[1], SIZE[0]] * 2)
    for first, then in [(0, 1), (4, 5)]:
        moved = found[first]["bboxes"] + torch.tensor([4.0, 0, 4, 0])
        wanted = moved[moved[:, 0] < SIZE[1]].minimum(limit)
        torch.testing.assert_close(found[then]["bboxes"], wanted)
    scalars = runner.message_hub.log_scalars
    assert list(scalars["test/blockcopy/moved"].data[0]) == [0, 1, 1, 0, 0, 1, 1]
    assert 0 <= scalars["test/blockcopy/agreement_moved"].data[0][-1] <= 1


def test_a_backbone_alone_has_no_outputs_to_move(make, tiny):
    model = tiny.mask_rcnn()
    backbone = dict(
        type="blockcopy_plugins.BlockCopyBackbone",
        backbone=model["backbone"],
        block_size=32,
        policy="all",
    )
    hook = {**HOOK, "propagate": "auto"}
    runner = make(hook=hook, model=ConfigDict({**model, "backbone": backbone}))
    with pytest.raises(ConfigError, match="propagate='auto' moves what leaves a whole model"):
        run(runner)


def test_errors_of_the_engine_reach_the_user(make, tiny):
    dataset = Videos(tiny, ((0, 2),))
    pictures = iter([tiny.picture(SIZE, 1), tiny.picture((64, 128), 2)])
    dataset.__class__ = type(
        "Sizes",
        (Videos,),
        {
            "__getitem__": lambda s, i: dict(
                inputs=(p := next(pictures)), data_samples=tiny.sample(tuple(p.shape[1:]), 0, i)
            )
        },
    )
    with pytest.raises(FrameError, match="stream 0 has frames of"):
        run(make(test_dataloader=loader(dataset)))


@pytest.mark.parametrize(
    "bad",
    [
        dict(block_size=0),
        dict(policy="clairvoyant"),
        dict(policy=dict(target=1)),
        dict(guards=["clairvoyant"]),
        dict(propagate="move", motion="clairvoyant"),
    ],
)
def test_bad_options_show_when_the_runner_is_made(make, bad):
    with pytest.raises(Exception, match="block_size=0|no policy|needs a 'type'|no guard|no motion"):
        make(hook={**HOOK, **bad})


def test_options_of_a_conversion_reach_it():
    hook = BlockCopyHook(block_size=32, policy="all", winograd=False, buckets=4)
    assert (hook.config.winograd, hook.config.buckets, hook.config.fuse) == (False, 4, True)
    hook = BlockCopyHook(guards=[dict(type="MaxAge", frames=9), "Dilate"])
    assert [guard.name for guard in hook.config.guards] == ["MaxAge(frames=9)", "Dilate(blocks=1)"]
    with pytest.raises(ConfigError, match=r"no option 'windograd'.*Did you mean 'winograd'"):
        BlockCopyHook(windograd=False)
    with pytest.raises(ConfigError, match="buckets"):
        BlockCopyHook(buckets=0)
