"""Block-sparse execution: tensors of executed blocks, the state beside them, and conversion."""
