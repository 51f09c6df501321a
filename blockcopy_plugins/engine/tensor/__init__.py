"""Tensors that hold executed blocks, and views and maps that are made of them."""
