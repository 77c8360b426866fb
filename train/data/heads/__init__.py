"""A population of procedural 4D heads, of whose pictures everything is known exactly.

A head is one mesh of fixed topology, deformed by formulas, cut open at eyes, mouth and hairline per pixel, and painted
per pixel. `population` draws heads, `render` takes their pictures.
"""
