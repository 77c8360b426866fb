"""Clips of real or procedural heads as training reads them: short-GOP videos, a table of numbers beside each."""
