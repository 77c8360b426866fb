"""Pictures, videos and sound in and out, and where they come from: the one part of `serve` that `train` may import."""
