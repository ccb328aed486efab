"""A GPU: its arrays, its streams, how it is found, and the rows that are staged on it. CuPy is imported here alone."""
