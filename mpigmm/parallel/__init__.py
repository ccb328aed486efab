"""MPI ranks and threads: communication, shares of the tiles, agreement on errors, and the time to stop."""
