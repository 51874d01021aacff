"""Poolings and refiners that the paper only names; no preset of the paper uses them."""
