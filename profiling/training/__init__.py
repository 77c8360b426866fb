"""What a training step costs: its work, its time, what its ranks send, and what its loader must give."""
