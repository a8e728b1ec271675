"""How the definitions that are made of images are named, so that they are known by their names."""

PREFIX = "image:"
"""Begins the names of definitions that are made of images."""

OUTSIDE = "environment:"
"""Begins the names of those whose answers come from an environment; no process without a factory can drive them."""
