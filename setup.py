"""The compiled extension, nothing else: all metadata is in pyproject.toml."""

from setuptools import setup

setup()
