"""Trained weights measured on heads whose truth the generator knows."""
