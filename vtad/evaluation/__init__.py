"""A trained run against the test images of its category: metrics.json, results on the card, a table.

May import `models`, `data`, `fitting.device` and the metrics.
"""
