"""Pictures before any model: the folder layout, checks, decoding, sizing, augmentation, registration, demo images.

May import the configuration.
"""
