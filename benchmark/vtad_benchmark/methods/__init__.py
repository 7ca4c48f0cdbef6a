"""What is compared: presets, and PaDiM, PatchCore and plain autoencoders on the same pictures; their figures and their cost.

May import the room `results`, and everything in `vtad` and `vtad_export`.
"""
