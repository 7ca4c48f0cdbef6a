"""What there is to do: the combinations, who does which, and one of them from its training to its row.

May import the rooms `methods` and `results`.
"""
