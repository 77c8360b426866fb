"""The published weight files become ours, without running a byte of theirs."""
