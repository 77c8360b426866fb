"""Read the parameters of a head model, FLAME or a stand-in, off landmarks in pictures."""
