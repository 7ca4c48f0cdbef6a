"""What all programs share as programs: one line for an error, exit codes, Ctrl-C, sections of --help, stopping in time.

May import the log, the errors and the credentials.
"""
