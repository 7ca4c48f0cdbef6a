"""The Neural Engine lint: what of a program likely runs on the engine, what it costs to get there, and what to do. Advisory only.

May import `mlpackage` only. Each rule names its sources (`sources.py`), and where they differ.
"""
