"""Ψ: a source picture and two motions become the planes of a head (paper, section 3.1)."""
