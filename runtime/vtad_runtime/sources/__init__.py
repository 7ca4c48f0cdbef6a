"""Where pictures come from: addresses, folders and files, cameras, videos, streams, hot folders and their journal, sorting.

May import `verdict` (a frame's geometry, a verdict's name) and `contract`.
"""
