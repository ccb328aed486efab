"""A distributed run: the layout of the rows, the survey, the loop over iterations, and what root records of it."""
