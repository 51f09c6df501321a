"""Whole models on a GPU that tests on the CPU can have: how often the package waits for it."""

from __future__ import annotations

import copy
import sys

import pytest
import torch

import blockcopy_plugins as bc
from benchmarks.gpu.device_reads import DeviceReads

POLICIES = [
    dict(type="RLPolicy", seed=1, target=0.4, update_every=4),
    dict(type="FrameDifferencePolicy", target=0.4),
    dict(type="GainPolicy", target=0.4),
]
# Where the model's own forward waits: what stands behind its heads looks at values.
OF_THE_MODEL = (
    "engine/execution/frame_run.py:run",
    "engine/macs.py:",
    "integrations/mmcv_ops.py:",
    # As the extractor that it stands in for; on a GPU that runs itself.
    "integrations/mmdet/roi_extraction.py:",
    # The framework's own methods, which stand-ins of the package call.
    "integrations/common/rebound_methods.py:",
)


class WithNms(DeviceReads):
    """mmcv's compiled op makes tensors of its own, and looks at none of its results."""

    def __enter__(self):
        entered = super().__enter__()
        self.watch_composite(sys.modules["mmcv.ops.nms"].ext_module, "nms")
        return entered


def run(device, model, batches, policy, guards=()):
    """Waits of each frame, those of the model's own code left out."""
    frames = [model.data_preprocessor(copy.deepcopy(batch)) for batch in batches]
    waits, own = [], 0
    with device:
        device.put(model)
        options = dict(policy=policy, guards=guards, cuda_graphs=False)
        bc.blockcopy_(model, bc.BlockCopyConfig(block_size=32, **options))
        for data in frames:
            data["inputs"] = device.put(data["inputs"].clone())
            device.waits.clear()
            with torch.no_grad():
                model(**data, mode="predict")
            found = {k: n for k, n in device.waits.items() if not k.startswith(OF_THE_MODEL)}
            waits.append(found)
            own += sum(device.waits.values()) - sum(found.values())
    return waits, own


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy["type"])
@pytest.mark.parametrize("kind", ["deeplabv3plus", "pspnet"])
def test_a_segmentor_waits_once(tiny_seg, kind, policy):
    model = tiny_seg.build(tiny_seg.config(kind))
    pictures = [tiny_seg.picture((96, 128), seed) for seed in range(6)]
    batches = [tiny_seg.batch([picture], scale=[0.5]) for picture in pictures]
    waits, own = run(DeviceReads(), model, batches, policy)
    assert waits == [{"host_transfer.py:to_host to the host": 1}] * 6 and own == 0
    if policy["type"] == "RLPolicy":
        assert bc.handle(model).policy.updates == 1
        assert bc.handle(model).last.scalars["information_gain"] > 0


def test_guards_and_a_budget_of_agreement_wait_for_nothing_more(tiny_seg):
    model = tiny_seg.build(tiny_seg.config("pspnet"))
    batches = [
        tiny_seg.batch([tiny_seg.picture((96, 128), seed)], scale=[0.5]) for seed in range(8)
    ]
    policy = dict(type="GainPolicy", target_fidelity=0.9, per_frame=True)
    mask = [[0, 0], [40, 0], [40, 40], [0, 40]]
    guards = [dict(type="MaxAge", frames=3), dict(type="Ignore", mask=mask)]
    waits, own = run(DeviceReads(), model, batches, policy, guards)
    report = bc.report(model)
    assert report.agreement.comparisons and report.guards
    # A comparison's second grid is read as the first one is.
    assert all(
        set(found) == {"host_transfer.py:to_host to the host"} and sum(found.values()) <= 2
        for found in waits
    )
    assert own == 0


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy["type"])
def test_of_a_detector_the_policy_waits_once_more_for_what_it_found(tiny, policy):
    model = tiny.build(tiny.mask_rcnn())
    batches = [tiny.batch([tiny.picture((96, 128), seed)]) for seed in range(6)]
    learns = policy["type"] != "FrameDifferencePolicy"
    waits, own = run(WithNms(), model, batches, policy)
    waits = [list(found.items()) for found in waits]
    once, twice = ([("host_transfer.py:to_host to the host", count)] for count in (1, 2))
    if learns:
        # Where nothing ran, what was found before is given again, and is on the host.
        assert waits[0] == twice and twice in waits[1:] and all(w in (once, twice) for w in waits)
    else:
        assert waits == [once] * 6
    assert own > 0  # MMDetection's heads
    if policy["type"] == "RLPolicy":
        assert bc.handle(model).policy.updates == 1
    if learns:
        assert bc.handle(model).last.scalars["information_gain"] > 0
