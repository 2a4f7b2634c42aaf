"""The documents: their commands have the options that they name, their links and pictures are there."""

from __future__ import annotations

import re
import shlex
from contextlib import suppress
from pathlib import Path

import click
import pytest

from flowcei.cli.main import cli
from flowcei.models.registry import ARCHITECTURES

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
_WORDS = re.compile(r"^(?:\$ )?flowcei( .*)?$")


def _commands(page: Path) -> list[list[str]]:
    """The words of each line of code that begins with `flowcei`, in blocks and sentences, without remarks."""
    text = page.read_text("utf-8")
    blocks = re.findall(r"```(?:bash|sh)?\n(.*?)```", text, re.DOTALL)
    lines = re.sub(r"\\\n\s*", " ", "\n".join(blocks)).splitlines()
    lines += [" ".join(span.split()) for span in re.findall(r"(?<!`)`(flowcei [a-z]+ [^`]+)`(?!`)", text)]
    found = (_WORDS.match(line.split("   ")[0].split("  #")[0].strip()) for line in lines)
    return [shlex.split(match[1] or "") for match in found if match]


def _parse(words: list[str]) -> None:
    """Refuse a command that is not there, or an option that it does not have; values are not looked at."""
    group = click.Context(cli, **cli.context_settings)  # commands remember by which names help was asked for
    while words and words[0].startswith("-"):  # of the group: --config FILE
        words = words[1 if words[0] in ("-q", "-v", "--help", "--version") else 2 :]
    if not words:
        return
    command = cli.get_command(group, words[0])
    assert command is not None, words[0]
    context = click.Context(command, group, info_name=words[0])
    arch = words[words.index("--arch") + 1] if "--arch" in words else ""
    context.default_map = {"arch": arch} if arch in ARCHITECTURES else {}
    with suppress(click.BadOptionUsage):  # a sentence names an option without its value
        command.make_parser(context).parse_args(words[1:])


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_of_a_page_have_the_options_that_it_names(page: Path) -> None:
    """A command or option that was renamed is found in every document."""
    for words in _commands(page):
        if any(word.startswith("...") or word in ("COMMAND", "[OPTIONS]") for word in words):
            continue
        try:
            _parse(words)
        except click.UsageError as error:
            pytest.fail(f"flowcei {shlex.join(words)}: {error.format_message()}")


def test_many_commands_are_looked_at() -> None:
    """The lines are found at all, and one with a wrong option is refused."""
    assert sum(len(_commands(page)) for page in PAGES) > 100
    with pytest.raises(click.NoSuchOption):
        _parse(["sample", "--momentum", "a.csv"])


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    """Files and headings that it links to are there."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        path, _, heading = target.partition("#")
        if target.startswith(("http:", "https:")):
            continue
        place = page if not path else page.parent / path
        assert place.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)$", place.read_text("utf-8"), re.MULTILINE)
            assert heading in {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}, target


def test_every_picture_is_shown() -> None:
    """None lies about that no page shows."""
    text = "".join(page.read_text("utf-8") for page in PAGES)
    for picture in (ROOT / "docs" / "pictures").rglob("*.png"):
        assert str(picture.relative_to(ROOT / "docs")) in text, picture
