"""Faces in raw pictures: found, cut out as the network wants them, followed over time, put back."""
