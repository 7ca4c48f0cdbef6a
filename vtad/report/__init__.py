"""report.html of a run: one page that needs nothing beside it, of a training or of an evaluation.

May import everything of vtad but commands and search. Jinja2 and matplotlib, of the extra `report`, are imported by this
room and by vtad.search.
"""
