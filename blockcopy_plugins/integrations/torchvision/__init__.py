"""torchvision: its detectors, which are called with lists of images."""
