"""The proof of an export, whatever the format: images, comparison with torch, tolerances, certificates, and what an exporter is.

May import the packages `vtad` and `vtad_runtime`, and no room of a format.
"""
