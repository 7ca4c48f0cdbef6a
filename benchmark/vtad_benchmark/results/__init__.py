"""What was found: a row a job, kept whole on disk; means and spreads; tables, files and a page; what papers published.

May import no other room; of `vtad` the run folder's writing, of the runtime the exact counts.
"""
