"""Turns pictures and videos into videos, from Python, from the command line and in a browser."""
