"""segmentation_models_pytorch: plain modules, built by name."""
