"""Evaluate trained models and format the paper's tables.

`evaluate` runs models and baselines (`methods`, `baselines`), `results` stores the scores (`schema`), `tables` formats
them beside the `published` values. The scores themselves are computed in `metrics`.
"""
