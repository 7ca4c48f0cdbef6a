"""Chaos: the programs are killed at random moments or meet a full disk, and what was promised is checked. `make chaos`.

Imports vtad_runtime, vtad, and what makes tiny models for the tests.
"""
