"""Configs that are wrong in one place, through the tools: one sentence that names the place."""

from __future__ import annotations

import json
import warnings

import pytest

pytest.importorskip("mmdet")

from tests.test_tools import tiny_detector as tiny  # noqa: E402
from tests.tool_process import run_tool  # noqa: E402

# What is appended to the config, and what the tools have to say of it.
BOTH = {
    "loader a list": ("test_dataloader = [test_dataloader]", "test_dataloader is ["),
    "loader a text": ("test_dataloader = 'x'", "test_dataloader is 'x', expected a dict"),
    "dataset a list": (
        "test_dataloader['dataset'] = [test_dataloader['dataset']]",
        "has the dataset [",
    ),
    "dataset a text": ("test_dataloader['dataset'] = 'x'", "has the dataset 'x', expected a dict"),
    "datasets a text": (
        "test_dataloader['dataset'] = dict(type='ConcatDataset', datasets='abc')",
        "has the dataset 'abc'",
    ),
    "metainfo a text": ("test_dataloader['dataset']['metainfo'] = 'thing'", "metainfo is 'thing'"),
    "default dtype": (
        "import torch\ntorch.set_default_dtype(torch.float64)",
        "changes torch's default dtype from torch.float32 to torch.float64",
    ),
    "default device": (
        "import torch\ntorch.set_default_device('meta')",
        "changes torch's default device from cpu to meta",
    ),
    "another folder": ("import os\nos.chdir('elsewhere')", "changes the working directory from"),
}
OF_A_RUNNER = {
    "seed a text": ("randomness = dict(seed='x')", "the runner of the config cannot be built"),
    "default hooks a list": (
        "default_hooks = [dict(type='LoggerHook')]",
        "the runner of the config cannot be built",
    ),
}
RUNS = {
    **{f"test_video {name}": fault for name, fault in {**BOTH, **OF_A_RUNNER}.items()},
    **{f"demo_video {name}": fault for name, fault in BOTH.items()},
}
_DRIVER = """
import contextlib, importlib, io, json, sys
sys.path.insert(0, sys.argv[1])
import os
found, folder = {}, os.getcwd()
for name, config in json.loads(sys.argv[2]).items():
    tool = name.partition(" ")[0]
    arguments = {
        "test_video": [config, "--video", "a.mp4", "--no-dense-too", "--work-dir", "wd"],
        "demo_video": ["a.mp4", "out.mp4", "--config", config],
    }[tool]
    module, err = importlib.import_module(tool), io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        status = module.run(module.main, module.parse_args(arguments))
    found[name] = (status, err.getvalue(), os.getcwd() == folder)
print("FOUND" + json.dumps(found))
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("configs")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = tiny.write_config(folder, tiny.write_weights(folder)).read_text()
    tiny.write_clip(folder / "a.mp4", 2, 1)
    (folder / "elsewhere").mkdir()
    configs = {}
    for name, (line, _) in RUNS.items():
        configs[name] = name.replace(" ", "_") + ".py"
        (folder / configs[name]).write_text(f"{base}\n{line}\n")
    done = run_tool(["-c", _DRIVER, tiny.ROOT / "tools", json.dumps(configs)], folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, json.loads(done.stdout.rpartition("FOUND")[2])


@pytest.mark.parametrize("name", list(RUNS))
def test_what_is_wrong_with_a_config_is_said(runs, name):
    folder, found = runs
    status, said, is_back = found[name]
    assert status == 2 and is_back
    assert said.startswith("error: ") and RUNS[name][1] in said
    assert not (folder / "out.mp4").exists()
