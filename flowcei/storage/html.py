"""The face of objects in notebooks: a small table of facts as HTML."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


def html_table(title: str, facts: Mapping[str, object]) -> str:
    """Return a table with a title and a row for each fact; all text is escaped.

    Example:
        >>> html_table("ocs", {"charge": "<2>"})
        '<table><caption>ocs</caption><tr><th>charge</th><td>&lt;2&gt;</td></tr></table>'
    """
    rows = (f"<tr><th>{escape(name)}</th><td>{escape(str(fact))}</td></tr>" for name, fact in facts.items())
    return f"<table><caption>{escape(title)}</caption>{''.join(rows)}</table>"
