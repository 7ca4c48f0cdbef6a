"""Drawn sets on which choices are made: bottles with contents, solar cells, bolts at any rotation, a plain weave.

Each is seeded: 150 good pictures to train, 40 good and 60 defective ones to test, with masks.
`python -m bench.drawn` writes them.
"""
