"""The scope's registries in a fresh process, and the policies' own builder."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

pytest.importorskip("mmengine")

from mmengine.registry import DefaultScope, init_default_scope  # noqa: E402

from blockcopy_plugins import registry  # noqa: E402
from blockcopy_plugins.errors import ConfigError  # noqa: E402
from blockcopy_plugins.policy import EveryNthFramePolicy, Policy, RLPolicy  # noqa: E402
from blockcopy_plugins.policy.guards import Guard, MaxAge, build_guard  # noqa: E402


@pytest.mark.parametrize("name", registry.__all__)
def test_every_location_can_be_imported(name):
    getattr(registry, name).import_from_location()


def test_scoped_names_need_no_custom_imports():
    code = """
from mmengine.registry import DATASETS, METRICS, init_default_scope
import sys
init_default_scope('mmdet')
assert not any(m.startswith('blockcopy_plugins') for m in sys.modules)
print(DATASETS.get('blockcopy_plugins.VideoFrameDataset').__name__)
print(METRICS.get('blockcopy_plugins.FrameDetectionMetric').__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-2:] == ["VideoFrameDataset", "FrameDetectionMetric"]


def test_policies_are_built_by_name_without_a_warning(caplog):
    before = DefaultScope.get_current_instance()
    init_default_scope("mmdet")
    with caplog.at_level(logging.WARNING):
        policy = registry.POLICIES.build(dict(type="EveryNthFramePolicy", n=3))
        scoped = registry.POLICIES.build(dict(type="blockcopy_plugins.RLPolicy", target=0.2))
    if before is not None:
        init_default_scope(before.scope_name)
    assert isinstance(policy, EveryNthFramePolicy)
    assert isinstance(scoped, RLPolicy)
    assert not caplog.records


def test_users_register_policies_of_their_own():
    class Mine(Policy):
        def __init__(self, strength):
            self.strength = strength

    registry.POLICIES.register_module(module=Mine, name="MineOfThisTest")
    assert registry.POLICIES.build(dict(type="MineOfThisTest", strength=2)).strength == 2
    assert registry.POLICIES.build(dict(type=Mine, strength=3)).strength == 3


@pytest.mark.parametrize("config", ["RLPolicy", {}, {"target": 0.3}])
def test_a_config_without_a_type_is_refused(config):
    with pytest.raises(ConfigError, match="key 'type'"):
        registry.POLICIES.build(config)


def test_an_unknown_policy_is_named_together_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"'NoPolicy' is not registered.*RLPolicy"):
        registry.POLICIES.build(dict(type="NoPolicy"))


def test_guards_are_registered_and_users_add_their_own():
    assert isinstance(registry.GUARDS.build(dict(type="MaxAge", frames=3)), MaxAge)

    class Mine(Guard):
        def __init__(self, strength):
            self.strength = strength

    registry.GUARDS.register_module(module=Mine, name="GuardOfThisTest")
    assert build_guard(dict(type="GuardOfThisTest", strength=2)).strength == 2
    with pytest.raises(ConfigError, match=r"a guard's config.*guards=\[dict\(type='MaxAge'"):
        registry.GUARDS.build({})
    with pytest.raises(ConfigError, match=r"'NoGuard' is not registered.*@GUARDS"):
        registry.GUARDS.build(dict(type="NoGuard"))


def test_users_register_estimates_of_motion_of_their_own():
    from blockcopy_plugins.propagation import Motion, build_motion

    class Mine(Motion):
        def __init__(self, strength):
            super().__init__()
            self.strength = strength

    registry.MOTIONS.register_module(module=Mine, name="MotionOfThisTest")
    assert build_motion(dict(type="MotionOfThisTest", strength=2)).strength == 2
    assert registry.MOTIONS.build(dict(type="blockcopy_plugins.CodecMotion")).needs_vectors
