"""What is on disk: whole files, lines that are added whole, lock files, and the one way through a folder.

Standard library alone; imports nothing of vtad.
"""
