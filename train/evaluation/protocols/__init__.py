"""Holds the protocols by which methods are compared: files that say what is measured, and what runs and scores them."""
