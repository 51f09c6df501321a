"""The laws on the architectures of the model zoos of MMDetection and MMSegmentation.

``architectures``  which of them, what each is there for, how it is made small
``build``          from a config to what runs on blocks, with random weights
``families``       networks that frameworks build by name
``named``          from such a name to what runs on blocks, and how fast
``laws``           all executed = dense, any grid = the masked reference

``python -m benchmarks.zoo`` runs them all and writes ``benchmarks/results/zoo.json``; the same
pieces are the test suite ``tests/test_zoo``.
"""
