"""What the paper prints, as data, and what is laid beside it: its tables, its votes, its figures."""
