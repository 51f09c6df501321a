"""Programs and data that show the package at work; not part of it."""
