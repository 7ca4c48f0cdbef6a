"""Names of hosts in addresses, before anything looks them up."""

from __future__ import annotations


def is_host_name(name: str | None) -> bool:
    """Whether it can be looked up: there is one, and no part between its dots is empty or above 63 characters.

    For any other the standard library raises UnicodeError, which is no OSError, when it connects.
    """
    try:
        return bool(name and name.encode("idna"))
    except UnicodeError:
        return False
