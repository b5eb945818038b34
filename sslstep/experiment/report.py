"""The command `report`: write all results in results/ to one page, results/index.html.

The page embeds figures, claims, tables, settings, data, device, versions and run times.
"""

import argparse
import base64
import html
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sslstep import _atomic, claims

# Media types of figures and animations by file suffix. PDFs repeat the PNGs.
IMAGES = {".png": "image/png", ".gif": "image/gif"}

# File in a folder without results that states why the run was skipped.
SKIPPED = "skipped.txt"

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
  color: #1a1a1a; }
img { max-width: 100%; }
table { border-collapse: collapse; font-size: 0.85rem; margin: 1rem 0; display: block;
  overflow-x: auto; }
th, td { border-bottom: 1px solid #ddd; padding: 0.25rem 0.6rem; text-align: left;
  vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
tr.fails td { background: #fdecea; }
pre { white-space: pre-wrap; font-size: 0.8rem; background: #f6f6f6; padding: 0.6rem; }
details { margin: 0.5rem 0; }
.about { color: #555; font-size: 0.85rem; }
"""

# Keys of about.json: run time; digests of everything the results depend on; the training runs
# that were read or made, with the commits that made them.
SECONDS = "seconds of the last call"
MADE_FROM = "made from"
RUNS = "training runs"

NOTE = """<p class="about">Seconds are of the last call, figures and claims included; training runs
that it found done and read from disk are not in them. What a claim expects is what the paper says
or predicts. Where that is words, or of a larger network, it is a bound of ours, and the paper's
number, if there is one, is in the claim. The measured value must be equal to it (=), at most
(&lt;=) or at least (&gt;=) it, up to the tolerance.</p>"""


def main(args: Sequence[str] = (), root: Path = Path("results")) -> int:
    """Write the page; return 1 if there are no results or a file is broken, else 0."""
    argparse.ArgumentParser(
        prog="python -m experiments report",
        description="Write results/index.html: one page of all that results/ holds.",
    ).parse_args(args)
    try:
        folders, without = sorted(finished(root), key=_place), sorted(skipped(root), key=_place)
        if not folders and not without:
            print(f"nothing in {root.resolve()}: run `make figures` first", file=sys.stderr)
            return 1
        _atomic.write_utf8(root / "index.html", page(folders, without))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    print(root / "index.html")
    return 0


def finished(root: Path) -> Iterator[Path]:
    """Yield the folders of complete results."""
    for path in root.glob("*/*/claims.json"):
        if not path.parent.name.endswith(".partial"):
            yield path.parent


def skipped(root: Path) -> Iterator[Path]:
    """Yield the folders of skipped runs, which hold the reason."""
    for path in root.glob(f"*/*/{SKIPPED}"):
        yield path.parent


def repeated(runs: Sequence[tuple[Path, Sequence[claims.Claim]]]) -> dict[Path, Path]:
    """Map each folder whose claims all recur in another folder of its experiment to that folder.

    A run of one method repeats the claims of a run of all methods digit by digit, because both
    share the training. Without this mapping these claims would be counted twice.
    """
    kept: list[tuple[Path, set[str]]] = []
    found = {}
    for folder, made in sorted(runs, key=lambda run: -len(run[1])):
        these = set(map(str, made))  # as text: NaN equals NaN
        holders = [path for path, those in kept if path.parent == folder.parent and these <= those]
        if these and holders:
            found[folder] = holders[0]
        else:
            kept.append((folder, these))
    return found


def page(folders: list[Path], without: list[Path]) -> str:
    """Return the HTML page: summary, table of contents, skipped runs, a section for each result."""
    read = [(folder, claims.load(folder / "claims.json")) for folder in folders]
    again = repeated(read)
    counted = [claim for folder, made in read if folder not in again for claim in made]
    held = claims.count(counted)
    held += "".join(
        f"<br>Counted once: all claims of {html.escape(_title(folder))} are among those of "
        f"{html.escape(_title(other))}."
        for folder, other in again.items()
    )
    rows = [
        [
            f'<a href="#{_anchor(folder)}">{html.escape(_title(folder))}</a>',
            _text(read_about(folder).get("what", "")),
            claims.count(made).replace(" claims hold", "").rstrip("."),
            read_about(folder).get(SECONDS, ""),
        ]
        for folder, made in read
    ]
    contents = _table(["experiment", "what it shows", "claims that hold", "seconds"], rows)
    if without:
        why = [(folder / SKIPPED).read_text(encoding="utf-8").strip() for folder in without]
        pairs = zip(map(_title, without), why, strict=True)
        contents += "\n" + _table(["not run", "why"], [list(map(html.escape, p)) for p in pairs])
    sections = "\n".join(_section(folder, made) for folder, made in read)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n<title>sslstep: results</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<h1>sslstep: results</h1>\n"
        f"<p>{held}</p>\n{contents}\n{NOTE}\n{sections}\n</body>\n</html>\n"
    )


def _section(folder: Path, made: list[claims.Claim]) -> str:
    """Return the HTML section of one folder of results."""
    about = read_about(folder)
    parts = [f'<h2 id="{_anchor(folder)}">{html.escape(_title(folder))}</h2>']
    for name in ("experiment", MADE_FROM):  # in the title; not for readers
        about.pop(name, None)
    if runs := about.pop(RUNS, None):
        each = (f"{name} (commit {', '.join(commits)})" for name, commits in runs.items())
        about[RUNS] = ", ".join(each)
    said = [about.pop("what", ""), *about.pop("explanation", "").split("\n\n")]
    parts += [_paragraph(text) for text in said if text]
    about |= {
        key: value for key, value in read_json(folder / "config.json").items() if key == "data"
    }
    facts = "; ".join(f"{key}: {value}" for key, value in about.items())
    if facts:
        parts.append(f'<p class="about">{html.escape(facts)}</p>')
    for figure in sorted(path for path in folder.iterdir() if path.suffix in IMAGES):
        image = base64.b64encode(figure.read_bytes()).decode()
        name, kind = html.escape(figure.stem), IMAGES[figure.suffix]
        parts.append(f'<p><img alt="{name}" src="data:{kind};base64,{image}"></p>')
    rows = [
        [
            "<br>".join(
                html.escape(text)
                for text in (claim.statement, claim.spread, claim.declared)
                if text
            ),
            html.escape(claim.where),
            f"{claim.measured:.4g}",
            html.escape(f"{claim.relation} {claim.expected:.4g}"),
            f"{claim.tolerance:.4g}",
            claim.verdict,
        ]
        for claim in made
    ]
    head = ["claim", "where", "measured", "expected", "tolerance", "holds"]
    parts.append(_table(head, rows, fails=[claim.holds is False for claim in made]))
    for name, title in (("table.md", "table"), ("config.json", "settings")):
        if (folder / name).is_file():
            text = html.escape((folder / name).read_text(encoding="utf-8"))
            parts.append(f"<details><summary>{title}</summary><pre>{text}</pre></details>")
    return "\n".join(parts)


def _paragraph(text: str) -> str:
    """Return a paragraph of a docstring as HTML; indented paragraphs are commands."""
    kind = "pre" if text.startswith("    ") else "p"
    return f"<{kind}>{_text(text.strip())}</{kind}>"


def _text(text: str) -> str:
    """Return text as HTML, with `code` in code tags."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", html.escape(text))


def _table(head: list[str], rows: list[list[Any]], fails: list[bool] | None = None) -> str:
    """Return an HTML table of cells that are HTML already; `fails` marks rows."""
    lines = ["<table><tr>" + "".join(f"<th>{cell}</th>" for cell in head) + "</tr>"]
    for number, row in enumerate(rows):
        kind = ' class="fails"' if fails and fails[number] else ""
        cells = "".join(f"<td{_kind(cell)}>{cell}</td>" for cell in row)
        lines.append(f"<tr{kind}>{cells}</tr>")
    return "\n".join([*lines, "</table>"])


def _kind(cell: Any) -> str:
    """Return the HTML class of a cell that holds a number; "" for other cells."""
    try:
        float(cell)
    except ValueError:
        return ""
    return ' class="number"'


def read_about(folder: Path) -> dict[str, Any]:
    """Return the contents of about.json; {} for results of an older version."""
    return read_json(folder / "about.json")


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; {} if the file does not exist."""
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is broken ({error}): remove its folder and run it anew."
        ) from error


def _title(folder: Path) -> str:
    """Return the title of a folder of results: experiment/name."""
    return f"{folder.parent.name}/{folder.name}"


def _anchor(folder: Path) -> str:
    """Return the HTML anchor of a folder of results."""
    return html.escape(_title(folder).replace("/", "-"), quote=True)


def _place(folder: Path) -> tuple[int, str]:
    """Return a sort key: experiments of the package first, then those of its subpackages."""
    return read_about(folder).get("module", "..").count("."), _title(folder)
