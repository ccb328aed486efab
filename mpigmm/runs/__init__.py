"""What a run leaves behind: model file, checkpoint, convergence log, progress."""
