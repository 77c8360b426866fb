"""Trained weights are measured on procedural heads, whose truth is known."""
