"""What a page may do, by its Content-Security-Policy and its content."""

import re


def assert_closed(html: str) -> None:
    """The page lets a browser fetch and run nothing: no script, no address, images and styles of its own alone."""
    policies = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', html)
    assert len(policies) == 1
    rules = dict(rule.split(" ", 1) for rule in policies[0].split("; "))
    assert rules == {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": "'unsafe-inline'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    # The policy holds for what comes after it.
    assert html.index("Content-Security-Policy") < html.index("<title>") < html.index("<style>")
    assert not re.search(r"<(script|link|iframe|object|embed|form|base)\b|\son\w+=", html)
