"""Addresses as they may be shown: without user, password and tokens. By position in the text, before anything parses it."""

from __future__ import annotations

import re

# From "scheme://" to the last "@": user and password, which may hold any character, or a user alone.
LOGIN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+:/+)([^/?#]*:.*|[^/?#]*)@", re.DOTALL)
SECRET = re.compile(r"((?:pw|pas|psw|psk|token|jwt|key|secret|sig|sess|cred|auth)\w*=)[^&;\s]*", re.IGNORECASE)
RESERVED = {"#": "%23", "/": "%2F", "?": "%3F", "@": "%40"}  # what a user name or password must not hold as it is


def without_credentials(address: str) -> str:
    """The address with *** for user and password, and for the values of keys such as password= and token=."""
    return SECRET.sub(r"\1***", LOGIN.sub(r"\1***@", address, count=1))


def reserved_in_login(address: str) -> set[str]:
    """Which of # / ? @ stand in user or password as they are, so that the address means another one."""
    found = LOGIN.match(address)
    return set(found[2]) & set(RESERVED) if found else set()


def login_hint(address: str) -> str:
    """What to say behind an error about such an address, "; write # as %23 ..."; nothing for any other."""
    wrong = sorted(reserved_in_login(address))
    said = ", ".join(f"{character} as {RESERVED[character]}" for character in wrong)
    return f"; in user and password write {said}" if wrong else ""
