"""Judgements to other machines: a broker (MQTT) and a web server, through a spool on disk that outlasts an outage.

May import `verdict` and `contract`.
"""
