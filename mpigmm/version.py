"""The version of the package; a module of its own, so that whoever needs the version imports nothing else."""

__version__ = "0.2.0"
