"""Meshes as files: GLB with a texture, PLY with vertex colours, OBJ with its material and picture."""
