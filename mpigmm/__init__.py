"""Gaussian mixture models by expectation-maximisation, in parallel and to the last bit."""

__version__ = "0.2.0"
