"""R: planes and a camera become a picture (paper, Eq. 1 and section 3.1)."""
