"""The detector arranged for inference: what can be folded into a neighbouring product is, and nothing is laid out twice.

The same function as the trained detector, in fewer operations. The proof of an export compares both. Imports no other room.
"""
