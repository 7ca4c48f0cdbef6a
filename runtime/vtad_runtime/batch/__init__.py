"""Millions of pictures: listed once, judged by partitions on all cores or a Ray cluster; rows as Parquet files.

May import `drawing`, `sources`, `verdict`, `engine`, `storage` and `contract`. Needs pyarrow, and Ray where that was asked for.
"""
