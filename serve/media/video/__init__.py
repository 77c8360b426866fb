"""Videos: driving frames with their true times and sound, and the files that are made of frames."""
