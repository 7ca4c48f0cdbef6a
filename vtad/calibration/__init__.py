"""What held-out good images decide after training: the weights of the scorers, the z-scores and the weights of the two maps.

May import `models`, `defects`, `data` and the metrics.
"""
