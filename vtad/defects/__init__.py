"""Synthetic defects: damage of a surface, and parts that do not belong together as they are.

May import `data`.
"""
