"""Face detection, face mesh and segmentation networks, read from TFLite files and run in PyTorch."""
