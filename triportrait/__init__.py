"""triportrait: one portrait and a driving video become a talking 3D head (Portrait4D-v2 as an engine)."""

from triportrait.links import check_links

check_links()

__version__ = "0.1.0"
