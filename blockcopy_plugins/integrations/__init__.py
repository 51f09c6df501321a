"""Integrations with other frameworks; each imports its framework when it is used."""
