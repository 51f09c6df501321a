"""Speed and memory of block-sparse execution, measured, never asserted.

``python -m benchmarks.efficiency``  speed-up and E, beside other engines; JSON, table, picture
``python -m benchmarks.profile``     where the time of a frame goes
``python -m benchmarks.ops``         gather and scatter against a plain copy
``python -m benchmarks.memory``      memory over many frames
``python -m benchmarks.policies``    accuracy against executed rate, by policy
``python -m benchmarks.zoo``         the laws on the architectures of the model zoos
``python tools/gpu_check.py``         all about a GPU: kernels, laws, speed, profile
``python -m benchmarks.tables``      the tables of the documents

:mod:`benchmarks.networks` has whole networks in plain PyTorch, for machines with nothing else.

Before all that, :func:`blockcopy_plugins.estimate` predicts the speed-up in seconds;
``python -m benchmarks.estimates`` says how well.
"""
