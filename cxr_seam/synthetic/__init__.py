"""Synthesize chest radiographs with labels and boxes, for the demo and the tests."""
