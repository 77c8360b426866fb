"""triportrait: one portrait and a driving video become a talking 3D head (Portrait4D-v2 as an engine)."""

__version__ = "0.1.0"
