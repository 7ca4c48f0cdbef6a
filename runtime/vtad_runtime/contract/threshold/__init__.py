"""From scores of pictures to a threshold: the conformal rule, the tail, exact intervals, the trade-off.

May import the card and the errors; numpy alone.
"""
