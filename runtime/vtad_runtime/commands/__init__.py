"""vtad-run, vtad-score, vtad-replay, vtad-calibrate, vtad-doctor: options and help. The work is in `line`, `batch` and `review`.

May import every room; heavy ones inside the command, so that --help is quick.
"""
