"""Films become clips for stage 2: faces followed, judged, fitted by a head model, cut out and stored."""
