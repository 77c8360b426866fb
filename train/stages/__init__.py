"""The stages of a training: what each draws, compares and shows, and how its engines are put together."""
