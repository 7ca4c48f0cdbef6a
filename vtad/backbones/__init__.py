"""Frozen pretrained networks: EfficientNet-lite0 or a user's Vision Transformer, and the layers that transformers share.

May import the configuration and the run folder.
"""
