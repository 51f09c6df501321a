"""Networks in plain PyTorch that the comparison of policies runs; see :mod:`..torch_network`."""
