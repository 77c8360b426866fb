"""A training step: how long it takes, what its ranks send, and how fast its data come."""
