"""The live page: one page that shows what is judged, as it is judged (extra `live`). May import `drawing`, `verdict`, `contract`.

state.py     what the page knows, an Output that the writing thread feeds
picture.py   pictures for the browser
access.py    who may look
app.py       the answers to a browser
server.py    the thread that answers
*.html .js .css .svg   the page itself, no outside assets
"""
