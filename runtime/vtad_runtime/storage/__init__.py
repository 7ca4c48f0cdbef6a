"""What survives a crash and belongs to one process at a time: SQLite databases.

It may import the contract.
"""
