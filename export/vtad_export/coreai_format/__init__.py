"""Core AI (beta): the .aimodel, executed by Apple's own runtime where it is made.

May import `proof`, `onnx_format` and, for the float16 program, `coreml_format`. Apple's packages are imported when needed.
"""
