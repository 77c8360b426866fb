"""Holds the named definitions of what a table prints: arrays in, numbers out; `catalogue` lists them all."""
