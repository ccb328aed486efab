"""What the site adds to the pages in this folder.

A page for each verb, made from the command line's own help; the changelog; the files of the project that pages link to;
and formulas as MathML, which browsers draw without a script.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from mpigmm.cli import app

ROOT = Path(__file__).parent.parent
VERBS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]

LINK_OUT = re.compile(r"\]\((?:\.\./)+((?:configs|jobs)/[\w./-]+|CHANGELOG\.md)\)")
"""A link of a page to a file of the project outside of docs/."""

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
LANGUAGES = {".py": "python", ".yaml": "yaml"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the verbs to the navigation."""
    reference = next(item["Reference"] for item in config.nav or () if "Reference" in item)
    commands = next(item["Commands"] for item in reference if "Commands" in item)
    commands += [{verb: f"commands/{verb}.md"} for verb in VERBS]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    pages = {f"commands/{verb}.md": verb_page(verb) for verb in VERBS}
    pages["changes.md"] = (ROOT / "CHANGELOG.md").read_text()
    for folder in ("configs", "jobs"):
        for path in sorted((ROOT / folder).rglob("*.*")):
            if "__pycache__" not in path.parts:
                pages[source_page(str(path.relative_to(ROOT)))] = listing(path)
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links out of the folder lead to generated pages, and list the verbs on their page."""
    if page.is_homepage:
        page.meta["hide"] = ["navigation"]
    up = "../" * page.file.src_uri.count("/")
    markdown = LINK_OUT.sub(lambda link: f"]({up}{source_page(link[1])})", markdown)
    return markdown + verb_table() if page.file.src_uri == "commands/README.md" else markdown


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn formulas from TeX to MathML."""
    return FORMULA.sub(lambda formula: mathml(html.unescape(formula[2]), is_block=formula[1] == "div"), content)


def mathml(tex: str, *, is_block: bool) -> str:
    """A formula as MathML, with space around the names of functions, for which latex2mathml leaves none."""
    text = convert(tex, display="block" if is_block else "inline")
    return re.sub("<mi>(log|det)</mi>", r'<mo lspace="0.17em" rspace="0.17em">\1</mo>', text)


def source_page(path: str) -> str:
    """The name of the page that shows a file of the project."""
    return "changes.md" if path == "CHANGELOG.md" else f"sources/{path}.md"


def listing(path: Path) -> str:
    """A page that shows a file."""
    return f"# {path.relative_to(ROOT)}\n\n````{LANGUAGES.get(path.suffix, 'bash')}\n{path.read_text()}````\n"


def verb_table() -> str:
    """All verbs with their first lines of help."""
    rows = [f"| [`{verb}`]({verb}.md) | {prose(command.help)} |" for verb, command in VERBS.items()]
    return "\n".join(["", "## All verbs", "", "| verb | what it does |", "| --- | --- |", *rows, ""])


def verb_page(verb: str) -> str:
    """The help of a verb as a page."""
    command = VERBS[verb]
    context = typer.Context(command, info_name=f"mpigmm {verb}")
    usage = command.get_usage(context).removeprefix("Usage: ")
    lines = [f"# mpigmm {verb}", "", prose(command.help), "", "```text", usage, "```"]
    for title, kind in (("Arguments", "argument"), ("Options", "option")):
        rows = list(help_rows(command, context, kind))
        if rows:
            lines += ["", f"## {title}", "", f"| {kind} | meaning |", "| --- | --- |", *rows]
    return "\n".join(lines) + "\n"


def help_rows(command: Any, context: Any, kind: str) -> Iterator[str]:
    """A row of a table for each parameter of a kind, with what --help says about it."""
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if parameter.param_type_name == kind and record:
            name, text = record
            yield f"| <code>{plain(name)}</code> | {prose(text)} |"


def prose(text: str) -> str:
    """A text of --help in Markdown, with links to the pages that it names."""
    return re.sub(r"docs/(\w+)\.md", r"[\1](../\1.md)", plain(text))


def plain(text: str) -> str:
    """A text without meaning to Markdown, which would read some characters as markup."""
    return re.sub(r"[\\`*_<>|&\[\]]", lambda found: f"&#{ord(found[0])};", " ".join(text.split()))
