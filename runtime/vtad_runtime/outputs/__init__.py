"""Where judgements go: the results folder, pictures, JSON Lines, a video, a window, a broker, a web server, events.

May import `drawing`, `sources`, `verdict` and `contract`.
"""
