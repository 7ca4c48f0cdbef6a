"""ONNX: the graph with its card in one file, float32 or int8, run by the runtime's own onnxruntime engine.

May import `proof`. The other formats import this room for the ONNX fallback beside their artefacts.
"""
