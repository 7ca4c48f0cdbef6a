"""Looking back and checking: a recorded run judged again, a threshold set by the line's own good pictures, the installation.

May import every room but `commands`.
"""
