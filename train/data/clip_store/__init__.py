"""Clip stores hold clips of real or procedural heads: short-GOP videos with a table of numbers beside each."""
