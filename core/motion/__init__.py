"""v: what a face does, as numbers (PD-FGC), and how a neck bends (FLAME)."""
