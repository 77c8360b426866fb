"""What moves the weights, on one process or many."""
