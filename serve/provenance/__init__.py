"""Where a finished file comes from: its watermark and its manifest, read and compared."""
