"""report.html of a run: one page that needs nothing beside it, of a training or of an evaluation.

May import everything of vtad but the commands. Jinja2 and matplotlib, of the extra `report`, are imported in this room alone.
"""
