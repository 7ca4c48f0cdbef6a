"""vtad-bench: its options, and one function called. torch is imported late, so that --help is quick.

May import every other room.
"""
