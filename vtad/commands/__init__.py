"""vtad-data, vtad-train and vtad-eval: options, and one function called. torch is imported late, so that --help is quick.

May import everything in `vtad`.
"""
