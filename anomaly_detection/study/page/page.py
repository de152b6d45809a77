"""One page of HTML from a study: what it answers first, then what can be asked of it, then everything else, folded.

It needs nothing beside it, works from a disk, and links to the files of the experiments by relative paths.
"""

import html
import json
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image

from anomaly_detection.study.experiment import Experiment
from anomaly_detection.study.page.answers import answers
from anomaly_detection.study.page.content import Content
from anomaly_detection.study.page.operating import operating_points
from anomaly_detection.study.page.pictures import jpeg
from anomaly_detection.study.page.terms import MEASURES, definitions, term
from anomaly_detection.study.render import to_html
from anomaly_detection.study.results import Result
from anomaly_detection.study.summary import summary
from anomaly_detection.study.tables import metric_tables

SMOKE = "A smoke run (--quick): it shows that everything runs, and its numbers mean nothing."
PHANTOMS = "The images are phantoms, rendered by a computer: this says nothing about patients."
NO_SCRIPT = "<noscript><style>[hidden] { display: revert !important }</style><p>Without JavaScript, menus and slider do nothing.</p></noscript>"
THUMBNAILS = 150_000  # bytes of the page that small pictures of figures may take
FILES = ("scores.csv", "patients.csv", "twins.csv", "metrics.json", "log.csv", "config.yaml", "model_card.md")


def to_page(content: Content) -> str:
    """The text of report.html."""
    title = html.escape(content.document.heading)
    warnings = [text for text, said in ((SMOKE, content.quick), (PHANTOMS, content.phantom)) if said]
    sections = [
        _lower("measures", "Every measure", _measures(content)),
        _lower("operating", "Another operating point", _operating(content)),
        _lower("words", "What the study shows, in sentences", _words(content)),
        _lower("tables", "Further tables", _tables(content)),
        _lower("experiments", "Files and figures of each experiment", _experiments(content)),
        _lower("definitions", "Definitions", definitions()),
        _lower("provenance", "Provenance", _provenance(content)),
    ]
    head = f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    told = "".join(f'<p class="warning">{html.escape(text)}</p>' for text in warnings)
    body = f"<header><h1>{title}</h1>{told}{NO_SCRIPT}</header>\n<main>{answers(content)}\n{''.join(sections)}</main>"
    return f"{head}\n<style>{_file('page.css')}</style></head>\n<body>\n{body}\n<script>{_file('page.js')}</script>\n</body></html>\n"


def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _lower(name: str, title: str, body: str) -> str:
    return f'<section class="lower" id="{name}"><h2>{html.escape(title)}</h2>{body}</section>\n'


def _wide(name: str, table: str) -> str:
    """A table that may be wider than the page, scrolled with keys, too."""
    return f'<div class="wide" tabindex="0" role="region" aria-label="{html.escape(name)}">{table}</div>'


def _hint(note: str) -> str:
    """What must be known of the table above it."""
    return f"<p class='hint'>{html.escape(note)}</p>" if note else ""


def _measures(content: Content) -> str:
    """A table for each metric, of which the menu shows one."""
    tables = metric_tables(content.results, content.datasets)
    options = "".join(f"<option>{table.title}</option>" for table in tables)
    menu = f'<p class="controls"><label>Measure <select id="metric" class="switch">{options}</select></label>'
    menu += f"<span>by {term('regime')}; {term('mean')} and {term('pooled')}; {term('oracle_')}; {term('interval')}</span></p>"
    blocks, notes = [], {table.title: table.note for table in content.document.tables}
    for number, table in enumerate(tables):
        attributes = f'data-of="metric" data-name="{table.title}"{" hidden" if number else ""}'
        shown = _wide(table.title, to_html(table, f"{table.title}. {MEASURES[table.title]}"))
        blocks.append(f"<div {attributes}>{shown}{_hint(notes.get(table.title, ''))}</div>")
    return f"{menu}{''.join(blocks)}{_hint(content.document.note)}"


def _operating(content: Content) -> str:
    """Menu, slider and empty tables, which the script fills from the values beside them."""
    data = operating_points([result for result, _ in content.first_seeds()])
    names = [html.escape("{model} {regime}, seed {seed}".format(**each)) for each in data["networks"]]
    options = "".join(f'<option value="{place}">{name}</option>' for place, name in enumerate(names))
    left_out = f"<p class='hint'>{data['left_out']} networks are left out: the page would be too large.</p>" if data["left_out"] else ""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    head = "".join(
        f"<th>{each}</th>"
        for each in (
            "dataset",
            "threshold (score)",
            "validation normals above it",
            term("can be promised", "can be promised at most"),
            "sensitivity",
            "specificity",
            "images called otherwise",
        )
    )
    return f"""<p class="controls"><label>Detector <select id="network">{options}</select></label>
<label>Thresholds: more found <input type="range" id="shift" min="0" max="1" step="1"> fewer false alarms</label>
<output id="shift-words" for="shift"></output> <button type="button" id="as-set">as set</button></p>
<p class="hint">The slider moves the threshold of every dataset, in {term("spread", "spreads")} of its validation normals.
To choose it by what test images show makes these numbers look better than they are.</p>{left_out}
{_wide("what the detector calls abnormal", f'<table><thead><tr>{head}</tr></thead><tbody id="operating-rows"></tbody></table>')}
<div class="halves"><div><h3>Now called abnormal: <span id="added-count">0</span></h3><ul class="names" id="added" tabindex="0"></ul></div>
<div><h3>No longer called abnormal: <span id="removed-count">0</span></h3><ul class="names" id="removed" tabindex="0"></ul></div></div>
<script type="application/json" id="operating-data">{text}</script>"""


def _words(content: Content) -> str:
    lines = summary(content.results, content.datasets, content.phantom, content.quick)
    return f"<ul>{''.join(f'<li>{html.escape(line)}</li>' for line in lines)}</ul>"


def _tables(content: Content) -> str:
    """Those that the menu of measures does not show."""
    shown = {table.title for table in metric_tables(content.results, content.datasets)}
    others = [table for table in content.document.tables if table.title not in shown]
    folded = ((html.escape(table.title), f"{_wide(table.title, to_html(table))}{_hint(table.note)}") for table in others)
    return "".join(f"<details><summary>{title}</summary>{body}</details>" for title, body in folded)


def _experiments(content: Content) -> str:
    rows = "".join(_links(content, *each) for each in zip(content.results, content.experiments, strict=True))
    head = "<tr><th>experiment</th><th>files</th><th>figures (of the first seed)</th></tr>"
    thumbnails, left = [], THUMBNAILS
    for model in content.models():
        for _, experiment in content.told(model):
            for path in content.figures.get(experiment.folder, ()):
                if path.stem == "roc" and left > 0:
                    thumbnails.append(_thumbnail(content, experiment, path))
                    left -= len(thumbnails[-1])
    folded = f"<details><summary>Links to all of them</summary>{_wide('experiments', f'<table>{head}{rows}</table>')}</details>"
    return f'<div class="thumbnails">{"".join(thumbnails)}</div>{folded}'


def _links(content: Content, result: Result, experiment: Experiment) -> str:
    aurocs = ", ".join(f"{name} {values['auroc']:.3f}" for name, values in result.metrics["datasets"].items() if "auroc" in values)
    files = [experiment.folder / name for name in FILES if (experiment.folder / name).exists()]
    cells = [_anchors(content.folder, files), _anchors(content.folder, content.figures.get(experiment.folder, ()))]
    told = f"{experiment.name}: AUROC {aurocs}" if aurocs else experiment.name
    return f"<tr><td>{html.escape(told)}</td>{''.join(f'<td>{each}</td>' for each in cells)}</tr>"


def _anchors(folder: Path, paths: Sequence[Path]) -> str:
    return ", ".join(f'<a href="{_address(folder, path)}">{html.escape(path.stem if path.suffix == ".png" else path.name)}</a>' for path in paths)


def _address(folder: Path, path: Path) -> str:
    """Of a file, relative to the page."""
    return html.escape(quote(Path(os.path.relpath(path, folder)).as_posix()))


def _thumbnail(content: Content, experiment: Experiment, path: Path) -> str:
    with Image.open(path) as picture:
        data = jpeg(np.asarray(picture.convert("RGB")), side=300)
    name = html.escape(f"{experiment.name}: ROC curves")
    return f'<figure><a href="{_address(content.folder, path)}"><img alt="{name}" src="{data}"></a><figcaption>{name}</figcaption></figure>'


def _provenance(content: Content) -> str:
    lines = "".join(f"<li>{html.escape(line)}</li>" for line in content.document.provenance)
    return f"<details><summary>Data, settings and versions</summary><ul>{lines}</ul></details>"
