"""Pictures before any model: the folder layout, checks, decoding, sizing, augmentation, synthetic defects, demo images.

May import the configuration.
"""
