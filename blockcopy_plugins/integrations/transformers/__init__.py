"""transformers: models that take ``pixel_values``, and pipelines around them."""
