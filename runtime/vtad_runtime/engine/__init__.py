"""Opened models: the card inside a file, and pictures through its graph by onnxruntime, OpenVINO or Core ML.

May import `contract` only; onnxruntime, OpenVINO and coremltools are imported nowhere else in the runtime.
"""
