"""Gaussian mixture models by expectation-maximisation, in parallel and to the last bit."""

from mpigmm.version import __version__ as __version__
