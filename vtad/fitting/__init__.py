"""Learning from good images: statistics, symmetries, the training loop and its checkpoint.

May import `models`, `backbones`, `defects`, `data` and the run folder.
"""
