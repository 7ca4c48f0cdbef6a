"""vtad-run, vtad-replay, vtad-calibrate, vtad-doctor: their options and help. The work is in `line` and `review`.

May import every room; heavy ones inside the command, so that --help is quick.
"""
