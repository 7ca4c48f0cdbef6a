"""The check of a package on a real device, and the report that it writes.

May import the reading of packages, the lint and `proof`; no torch.
"""
