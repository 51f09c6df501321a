"""timm: plain modules, built by name."""
