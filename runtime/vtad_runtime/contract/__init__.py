"""What training, export and the edge share: the card, pixels, colours of a heatmap, the threshold rule,
errors, whole files, locks, the log, stopping.

May import nothing of vtad; it is the only room of the runtime that `vtad` sees.
"""
