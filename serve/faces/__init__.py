"""Finds faces in raw pictures, cuts them out as the network wants them, follows them over time, puts them back."""
