"""Files of rows: reading them tile by tile, and writing results row by row."""
