"""Evaluate trained models and format the paper's tables."""
