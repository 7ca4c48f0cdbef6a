"""What survives a crash and belongs to one process at a time: lock files and SQLite databases.

It may import the contract.
"""
