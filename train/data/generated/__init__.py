"""Heads that GenHead draws for stage 1, from a store or as they are needed."""
