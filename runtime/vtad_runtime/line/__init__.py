"""A run: its options, its loop (read, judge, write), golden samples, its summary; one program for files and live sources.

May import every room but `review` and `commands`; `page` and what needs the network only where it was asked for.
"""
