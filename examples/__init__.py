"""Programs and data that show the package in use; not part of it."""
