"""vtad-data, vtad-train, vtad-sweep and vtad-eval: options, and one function called. --help is quick: torch is imported late.

May import everything in `vtad`.
"""
