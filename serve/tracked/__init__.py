"""Follow the face of a film, fit a head model to it, and write or use what comes of it."""
