"""Where a file comes from: an invisible watermark in its pictures, a signed manifest in its container."""
