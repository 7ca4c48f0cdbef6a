"""Opened models: the card inside a file, and pictures through its graph by onnxruntime or Core ML.

May import `contract` only; onnxruntime and coremltools are imported nowhere else in the runtime.
"""
