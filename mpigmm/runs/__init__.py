"""Files and messages of a run: its directory, model, checkpoint, convergence log and progress."""
