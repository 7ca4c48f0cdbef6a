"""Judgements on this machine: the results folder, pictures, JSON Lines, a video, a window, events.

May import `drawing`, `sources`, `verdict` and `contract`.
"""
