"""What `triportrait profile` runs."""
