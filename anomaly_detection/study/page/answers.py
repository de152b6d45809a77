"""The first screen of a report: does it work, where, how sure is that, and what goes wrong."""

import html
import math
from collections.abc import Callable, Container, Mapping
from statistics import mean

from anomaly_detection.study.page.charts import Mark, Panel, Scale, chart, legend
from anomaly_detection.study.page.content import Content
from anomaly_detection.study.page.pictures import shown, worst
from anomaly_detection.study.page.terms import term
from anomaly_detection.study.results import Cell, cells
from anomaly_detection.study.summary import spoken
from anomaly_detection.study.verdict import CHANCE, certainty, false_alarms, verdicts

Rows = Mapping[tuple[str, str], Mapping[str, Cell]]  # by model and regime the cells of each dataset
WIDTHS = 842, 500  # pixels of the charts


def answers(content: Content) -> str:
    """All of the first screen below the heading."""
    charts = f'<div class="beside">{_auroc_chart(content)}{_alarm_chart(content)}</div>'
    return f'<section id="answer">{_sentences(content)}{charts}{_worst(content)}</section>'


def _sentences(content: Content) -> str:
    lines = []
    for verdict in verdicts(content.results, content.datasets):
        extent, answer = ("none", "a smoke run does not say") if content.quick else (verdict.extent, verdict.answer)
        network = f"<b>{html.escape(verdict.model)}</b> ({html.escape(verdict.regime)})"
        lines.append(f'<li class="{extent}">{network}: <span class="answer">{answer}</span>. {html.escape(verdict.reason)}</li>')
    title = f"Does it work? {term('better than chance', 'What counts as yes')}"
    sure = html.escape(" ".join(certainty(content.results, content.datasets)))
    return f'<h2>{title}</h2><ul class="verdicts">{"".join(lines)}</ul><p class="certainty">How sure: {sure}</p>'


def _auroc_chart(content: Content) -> str:
    rows = _rows(content, lambda model, regime: cells(content.main, model, regime, content.datasets, "auroc"))
    lows = [end for row in rows.values() for cell in row.values() for end in _ends(cell)]
    scale = Scale(min(math.floor(10 * min([*lows, 0.4])) / 10, 0.4), 1.0, "AUROC (0.5 = chance, 1 = perfect)", CHANCE, "chance: 0.5")
    title = f"{term('AUROC')} with 95 % {term('interval', 'intervals')}, by dataset, detector and {term('regime')}"
    panels = _panels(content, rows, "AUROC", {}, lambda name: spoken(content.results, name))
    key = legend(list(dict.fromkeys(result.regime for result in content.main)), ["dashed line: chance"])
    return _figure(title, key, panels, scale, WIDTHS[0])


def _alarm_chart(content: Content) -> str:
    rows = _rows(content, lambda model, regime: false_alarms(content.main, model, regime, content.datasets))
    promises = {
        (result.model, result.regime, name): values["false_alarms"]
        for result in content.main
        for name, values in result.metrics["datasets"].items()
        if "false_alarms" in values
    }
    promised = max((each["promised"] for each in promises.values()), default=0.05)
    highs = [end for row in rows.values() for cell in row.values() for end in _ends(cell)]
    end = min(math.ceil(10 * max([*highs, 0.2])) / 10, 1.0)
    scale = Scale(0.0, end, "normals called abnormal (%)", promised, f"promised: {100 * promised:.3g} %", percent=True)
    title = f"False alarms {term('promised')} and {term('observed')}"
    untold = {(result.model, result.regime) for result in content.main if result.untold}
    estimates = {key for key, each in promises.items() if not each["guaranteed"] or key[:2] in untold}
    words = ["marks as for AUROC", f"dashed line: promised {100 * promised:.3g} %", *(["outline: only an estimate"] if estimates else [])]
    return _figure(title, legend([], words), _panels(content, rows, "false alarms", estimates, str), scale, WIDTHS[1])


def _rows(content: Content, row_of: Callable[[str, str], Mapping[str, Cell]]) -> Rows:
    return {name: row_of(*name) for name in dict.fromkeys((result.model, result.regime) for result in content.main)}


def _ends(cell: Cell) -> list[float]:
    return [*cell.values, *(cell.interval or ())]


def _panels(content: Content, rows: Rows, measure: str, hollow: Container[tuple[str, str, str]], title_of: Callable[[str], str]) -> list[Panel]:
    panels = []
    for dataset in content.datasets:
        marks: dict[str, list[Mark]] = {model: [] for model in content.models()}
        for (model, regime), row in rows.items():
            if (cell := row[dataset]).values:
                value = mean(cell.values)
                low, high = cell.interval or (value, value)
                tip = f"{model} {regime} on {dataset}: {measure} {cell}"
                marks[model].append(Mark(regime, value, low, high, tip, (model, regime, dataset) in hollow))
        panels.append(Panel(title_of(dataset), marks))
    return panels


def _figure(title: str, key: str, panels: list[Panel], scale: Scale, width: int) -> str:
    told = "; ".join(mark.tip for panel in panels for marks in panel.marks.values() for mark in marks)
    drawing = chart(panels, scale, width, f"{scale.label}, {scale.reference_label}", told)
    region = f'<div class="scroll" tabindex="0" role="region" aria-label="{scale.label}">{drawing}</div>'
    return f"<div><h2>{title}</h2>{key}{region}</div>"


def _worst(content: Content) -> str:
    """The pictures of each detector, of which a menu shows one; first the one with the highest mean AUROC."""
    aurocs = {}
    for verdict in verdicts(content.results, content.datasets):
        row = cells(content.results, verdict.model, verdict.regime, content.datasets, "auroc")
        aurocs[verdict.model] = mean([mean(row[name].values) for name in content.datasets if row[name].values] or [0.0])
    first = max(aurocs, key=aurocs.__getitem__)
    options = "".join(f"<option{' selected' if model == first else ''}>{html.escape(model)}</option>" for model in aurocs)
    blocks = [_pictures(content, model, model != first) for model in aurocs]
    menu = f'<label>The worst mistakes of <select id="mistakes" class="switch">{options}</select></label>'
    return f"<h2>{menu}</h2>{''.join(blocks)}"


def _pictures(content: Content, model: str, hidden: bool) -> str:
    networks = content.told(model)
    results = [(result, experiment.folder) for result, experiment in networks]
    halves = "".join(_half(results, label) for label in (1, 0))
    attributes = f'data-of="mistakes" data-name="{html.escape(model)}"{" hidden" if hidden else ""}'
    return f'<div class="halves" {attributes}>{halves}</div>'


def _half(results: list, label: int) -> str:
    called = []
    for result, _ in results:
        for dataset in result.datasets:
            scores = result.rows.where(part="test", dataset=dataset, label=label).column("score")
            called += (scores > result.metrics["datasets"][dataset]["threshold"]).tolist()
    wrong = sum(flag != bool(label) for flag in called)
    kind, name = ("abnormal", "miss") if label else ("normal", "false alarm")
    if not called:
        return f"<div><h3>There are no {kind} test images</h3></div>"
    title = term(name, "Misses" if label else "False alarms") if wrong else f"No {term(name)}; the nearest to one"
    first = results[0][0]
    threshold = "threshold of its true domain, as if that were told" if first.untold else "threshold"
    network = f"({html.escape(first.regime)}, seed {first.seed}; score against {threshold})"
    pictures = "".join(shown(picture, label) for picture in worst(results, label))
    heading = f"<h3>{title}: {wrong} of {len(called)} {kind} images <small>{network}</small></h3>"
    return f'<div>{heading}<div class="pictures">{pictures or "<p>no pictures</p>"}</div></div>'
