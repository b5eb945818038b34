"""Pages of experiments: a gallery of all figures, and the claims of runs that are kept in docs/.

    python docs/_ext/experiment_pages.py results

copies claims and figures of every run in results/ to docs/recorded/ and docs/figures/.
"""

import json
import re
import shutil
import sys
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from sslstep import claims
from sslstep.experiment import find, load

DOCS = Path(__file__).parents[1]
RECORDED, FIGURES = DOCS / "recorded", DOCS / "figures"


def keep(root: Path) -> None:
    """Copy what the documentation shows of each run; its name tells settings that differ."""
    for folder in sorted(path.parent for path in root.glob("*/*/claims.json")):
        preset = folder.name.removeprefix("cpu").replace("data=", "")
        name = re.sub(r"[+=]+", "_", f"{folder.parent.name}+{preset}").rstrip("_")
        (RECORDED / name).mkdir(exist_ok=True)
        for file in ("about.json", "claims.json", "table.md"):
            if (folder / file).is_file():
                shutil.copy(folder / file, RECORDED / name)
        for image in (*folder.glob("*.png"), *folder.glob("*.gif")):
            more = "" if image.stem == "figure" else f"_{image.stem}"
            shutil.copy(image, FIGURES / f"{name}{more}{image.suffix}")


class Claims(SphinxDirective):
    """A table of the claims of the kept run that is named."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Called by Sphinx."""
        folder = RECORDED / self.arguments[0]
        self.env.note_dependency(str(folder / "claims.json"))
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        made = claims.load(folder / "claims.json")
        over_seeds = any(claim.seeds for claim in made)
        head = ["claim", "source", "measured", "each seed", "predicted", "holds"]
        rows = [head, ["---"] * len(head), *map(_cells, made)]
        rows = rows if over_seeds else [[*row[:3], *row[4:]] for row in rows]
        text = (
            f"{claims.count(made)} Measured on {about['date']} with commit {about['commit']}, JAX "
            f"{about['jax']}, {about['host']}."
        )
        if over_seeds:
            text += " Brackets: 95% intervals of the mean over seeds."
        parsed = self.parse_text_to_nodes("\n".join([text, "", *map(_line, rows)]))
        parsed[-1]["classes"].append("claims")
        return parsed


def _cells(claim: claims.Claim) -> list[str]:
    measured = f"{claim.measured:.4g}"
    if len(claim.seeds) > 1 and claim.interval is not None:
        measured += " [{:.3g}, {:.3g}]".format(*claim.interval)
    seeds = ", ".join(f"{value:.3g}" for value in claim.seeds)
    margin = f" ±\u00a0{claim.tolerance:.2g}" if claim.tolerance else ""
    relation = {"<=": "≤", ">=": "≥"}.get(claim.relation, claim.relation)
    predicted = f"{relation}\u00a0{claim.expected:.4g}{margin}"
    return [claim.statement, claim.where, measured, seeds, predicted, claim.verdict]


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


class Gallery(SphinxDirective):
    """A card for each experiment: its figure, its command, its page and its code."""

    def run(self) -> list[nodes.Node]:
        """Called by Sphinx."""
        cards = (self._card(name, module) for name, module in find("experiments").items())
        text = "\n".join(["`````{container} gallery", *cards, "`````"])
        return self.parse_text_to_nodes(text)

    def _card(self, name: str, module: str) -> str:
        record = load(module)
        images = [*FIGURES.glob(f"{name}.*"), *sorted(FIGURES.glob(f"{name}_*"))]
        page = f"experiments/{name}.md"
        title = record.doc.partition("\n")[0].rstrip(".")
        title = f"[{title}]({page})" if (DOCS / page).is_file() else title
        folder = "../" + module.replace(".", "/")
        code = [
            part
            for part in ("experiment", "figure", "claims")
            if (DOCS / folder / f"{part}.py").is_file()
        ]
        return "\n".join(
            [
                "````{container} card",
                *(f"![{name}](figures/{image.name})" for image in images[:1]),
                "",
                f"{title}",
                "",
                f"`make {name}`, {_duration(record.minutes)}",
                "",
                "Code: " + ", ".join(f"{{download}}`{p} <{folder}/{p}.py>`" for p in code),
                "````",
            ]
        )


def _duration(minutes: float) -> str:
    return f"{round(60 * minutes)} s" if minutes < 1 else f"{minutes:.0f} min"


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("claims", Claims)
    app.add_directive("gallery", Gallery)
    app.add_css_file("gallery.css")
    return {"parallel_read_safe": True, "parallel_write_safe": True}


if __name__ == "__main__":
    keep(Path(sys.argv[1]))
