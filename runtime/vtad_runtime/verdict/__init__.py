"""What is said about a frame: the detector's result, mask, geometry, frame checks, alarm, drift, and the one judge over them.

May import `engine` and `contract`.
"""
