"""The mathematics: arrays in, arrays out; no MPI, no files."""
