"""One module per job of the command line: its options as a dataclass, and `run`."""
