"""vtad-export: its options, the tuple of formats, and the making of one artefact or of all.

May import every other room; torch is imported when a command needs it.
"""
