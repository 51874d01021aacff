"""Stands in for Colab's own package: what the notebooks and the program ask of it, and no more."""
