"""Evergreen keeps models fresh: train, evaluate, ship, watch, retrain."""

from importlib.metadata import version

__version__ = version("evergreen")
