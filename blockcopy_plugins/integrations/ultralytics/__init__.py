"""Ultralytics: YOLO models as ``predict`` and ``track`` run them."""
