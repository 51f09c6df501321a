"""What all tests share: quiet, repeatable property tests."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

# The benchmarks are no part of the package. A clone that was not built comes last: the package that
# is to be tested is then the installed one.
ROOT = Path(__file__).resolve().parents[1]
BUILT = any((ROOT / "blockcopy_plugins").glob("_C.*"))
sys.path.insert(0 if BUILT else len(sys.path), str(ROOT))

import blockcopy_plugins  # noqa: E402
from tests.tool_process import keep_configs_as_they_are  # noqa: E402

# Processes that tests start are to import the same one, from whatever folder.
_PACKAGE = str(Path(blockcopy_plugins.__file__).resolve().parents[1])
os.environ["PYTHONPATH"] = os.pathsep.join(
    [_PACKAGE, *filter(None, [os.environ.get("PYTHONPATH")]), str(ROOT)]
)

settings.register_profile(
    "ci",
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("ci")


# Many tests there look at what one fixture has run.
_COSTLY_FIXTURES = {"test_tools", "test_configs", "test_integrations", "test_benchmarks"}


def pytest_collection_modifyitems(items):
    """Costly fixtures first: who has nothing left to do takes over tests from another's end."""
    items.sort(key=lambda item: not _COSTLY_FIXTURES.intersection(item.path.parts))


def pytest_configure(config):
    """Let one process write the grammars that yapf keeps for all.

    It does so when it is first imported after its installation, as MMEngine does, and another
    process that reads them at that moment finds half of them.
    """
    if not hasattr(config, "workerinput"):
        with contextlib.suppress(ImportError):
            importlib.import_module("yapf.yapflib.yapf_api")


def pytest_collection_finish():
    """Keep the garbage collector from looking through all that was imported, again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _configs_as_they_are():
    keep_configs_as_they_are()


@pytest.fixture(autouse=True)
def _same_random_numbers():
    torch.manual_seed(0)


@pytest.fixture
def allocated_by():
    """Return a function that calls a function and returns by how many bytes torch's tensors grew.

    To the byte, those included that no Python object holds. What was allocated outside of these
    calls counts for nothing when it is freed, so a warm-up must be such a call, too.
    """

    def measure(function) -> int:
        gc.collect()
        cpu = [torch.profiler.ProfilerActivity.CPU]
        with torch.profiler.profile(activities=cpu, profile_memory=True) as profile:
            function()
            gc.collect()
        events = profile.profiler.kineto_results.events()
        return sum(event.nbytes() for event in events if event.name() == "[memory]")

    return measure
