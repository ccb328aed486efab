"""GPUs: their arrays, streams and discovery, and the copies of rows to them. Only this package imports CuPy."""
