"""Jobs of the command line that belong to training."""
