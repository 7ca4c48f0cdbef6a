"""Core ML: the network as Apple's chips like it, the package, and its proof by a reference executor off a Mac.

May import `proof` and `onnx_format`. coremltools is imported when it is needed.
"""
