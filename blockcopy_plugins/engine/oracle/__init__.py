"""The oracle: what block-sparse execution must equal, dense and slow."""
