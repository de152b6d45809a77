"""What a finished experiment looks like: ROC curves, score histograms, galleries, contrast and detail, the latent, training curves.

Drawn without a display.
"""

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.metrics import roc_curve
from threadpoolctl import threadpool_limits

from anomaly_detection.evaluation.overlay import LABEL, TOP, heat_colours, overlay
from anomaly_detection.evaluation.twins import contrast_detail, read_twin_rows
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.files import optional, read_table, whole_file
from anomaly_detection.system.lines import Lines

NORMAL, ABNORMAL = "tab:blue", "tab:red"
NEAREST = "nearest training"
LESION = "cyan"  # the contour of a true mask; in no overlay
DPI = 90
LATENTS = 2000  # t-SNE takes 7 s of these and 54 of four times as many, and nobody tells more points apart
PARTS = {"training": {"color": "tab:blue", "linestyle": "-"}, "validation": {"color": "tab:orange", "linestyle": "--"}}
VALIDATION = "val_"  # begins the names of the columns of log.csv that validation images have
UNITS = {  # of the columns of log.csv, by the ends of their names
    "loss": "loss (no unit)",
    "accuracy": "share of images named rightly",
    "variance": "variance (square of the latent's unit)",
    "resets": "resets (count)",
    "slots_used": "slots (count)",
    "dead_queries": "queries (count)",
}
Rows = Sequence[Mapping[str, Any]]


def draw_figures(folder: Path, rows: Lines, metrics: Mapping[str, Any], parts: Sequence[int] | None) -> list[Path]:
    """Draw all figures of an experiment into `folder`/figures and return their paths in the order in which they are looked at.

    Args:
        folder: of the experiment, with details.npz and log.csv.
        rows: of its scores.csv.
        metrics: of its metrics.json.
        parts: lengths of the organ and modality parts of the latent, of which the rest is content; None without MADDR.

    Raises:
        UserError: details.npz is missing or damaged.
    """
    try:
        with np.load(folder / "details.npz") as file:
            details = dict(file)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error):
        raise UserError(f"{folder / 'details.npz'}: missing or damaged; evaluate the run again") from None
    log = read_log(folder)
    figures = {"roc": draw_roc(rows, metrics)} if any("auroc" in values for values in metrics["datasets"].values()) else {}
    figures["scores"] = draw_histograms(rows, metrics)
    for name, lesions in told_lesions(read_twin_rows(folder / "twins.csv")).items():
        figures[f"contrast_detail_{name}"] = draw_contrast_detail(rows, lesions, name)
    for name in metrics["datasets"]:
        figures[f"gallery_{name}"] = draw_gallery(rows, details, name, float(details["map_scale"]))
    figures["latent"] = draw_latent(rows, details["latent"], parts)
    if log:
        figures["training"] = draw_training(log)
    paths = []
    for name, figure in figures.items():
        paths.append(folder / "figures" / f"{name}.png")
        with whole_file(paths[-1]) as partial:
            figure.savefig(partial, format="png", dpi=DPI)
    return paths


def read_log(folder: Path) -> Rows:
    """The lines of log.csv in the folder of an experiment; none of a network that was not trained."""
    path = folder / "log.csv"
    return read_table(path, {"phase": str, "iteration": int}, rest=optional(float)) if path.exists() else []


def draw_roc(rows: Lines, metrics: Mapping[str, Any]) -> Figure:
    """A curve for each dataset that has one, with its AUROC."""
    figure = Figure((4.5, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, values in metrics["datasets"].items():
        if "auroc" not in values:
            continue
        test = rows.where(dataset=name, part="test")
        false, true, _ = roc_curve(test.column("label"), test.column("score"))
        low, high = values["intervals"]["auroc"]
        axes.plot(false, true, label=f"{name} {values['auroc']:.3f} [{low:.3f}, {high:.3f}]")
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
    axes.set(xlabel="1 - specificity (share of normal images)", ylabel="sensitivity (share of abnormal images)", aspect="equal")
    axes.set_title("ROC, test images (AUROC, 95 % interval)")
    axes.legend(fontsize=8, loc="lower right")
    return figure


def draw_histograms(rows: Lines, metrics: Mapping[str, Any]) -> Figure:
    """Scores of normal and abnormal test images of each dataset, and the threshold from its validation normals."""
    names = list(metrics["datasets"])
    figure = Figure((3.6 * len(names), 3), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        test = rows.where(dataset=name, part="test")
        scores, labels = test.column("score"), test.column("label")
        edges = np.linspace(scores.min(), np.nextafter(scores.max(), np.inf), 31)
        for label, text, colour in ((0, "normal", NORMAL), (1, "abnormal", ABNORMAL)):
            own = scores[labels == label]
            if len(own):
                axes.hist(own, edges, density=True, alpha=0.5, color=colour, label=f"{text} ({len(own)})")
        axes.axvline(metrics["datasets"][name]["threshold"], color="black", linestyle="--", label="threshold")
        axes.set(title=name, xlabel="anomaly score (no unit)", ylabel="share of images per unit of score")
        axes.xaxis.set_major_locator(MaxNLocator(4))  # numbers of six digits would touch
        axes.legend(fontsize=7)
    return figure


def draw_gallery(rows: Lines, details: Mapping[str, np.ndarray], dataset: str, map_scale: float) -> Figure:
    """Test images with the highest and the lowest scores, normal and abnormal: image, reconstruction, anomaly map over the image.

    Where nothing is reconstructed, the training image with the nearest latent stands in its place. True masks are drawn around, where there are any.
    """
    chosen = np.flatnonzero(rows.take(details["gallery_row"]).column("dataset") == dataset)
    shown = rows.take(details["gallery_row"][chosen])
    lines = {"image": [details["gallery_image"][place] for place in chosen]}
    for name, text in (("gallery_reconstruction", "reconstruction"), ("gallery_nearest", NEAREST)):
        if name in details:
            lines[text] = [details[name][place] for place in chosen]
    maps = [details["gallery_map"][place] for place in chosen]
    lines["anomaly map"] = [overlay(image, place, map_scale).transpose(2, 0, 1) for image, place in zip(lines["image"], maps, strict=True)]
    masks = [details["gallery_mask"][place] for place in chosen] if "gallery_mask" in details else []
    figure = Figure((1.25 * len(chosen) + 0.8, 1.4 * len(lines)), layout="constrained")
    grid = figure.subplots(len(lines), 1, squeeze=False)[:, 0]
    for axes, (text, pictures) in zip(grid, lines.items(), strict=True):
        axes.imshow(_side_by_side([picture.transpose(1, 2, 0).squeeze() for picture in pictures], 255), cmap="gray", vmin=0, vmax=255)
        if any(mask.any() for mask in masks) and text != NEAREST:  # another image's anatomy
            axes.contour(_side_by_side(masks, False), levels=[0.5], colors=LESION, linewidths=0.8)
        axes.set(xticks=[], yticks=[])
        axes.set_ylabel(text, fontsize=8)
        axes.spines[:].set_visible(False)
    width = maps[0].shape[1]
    centers = np.arange(len(chosen)) * (width + _gap(width)) + (width - 1) / 2
    grid[0].set_xticks(centers, [f"{score:.3g}" for score in shown.column("score")], fontsize=8)
    grid[0].tick_params(length=0, labeltop=True, labelbottom=False)
    for text, abnormal in zip(grid[0].get_xticklabels(), shown.column("label"), strict=True):
        text.set_color(ABNORMAL if abnormal else NORMAL)
    heat = ScalarMappable(Normalize(1, TOP), ListedColormap(heat_colours()))
    figure.colorbar(heat, ax=grid, extend="max", ticks=np.linspace(1, TOP, 3)).set_label("\n".join(LABEL), fontsize=7)
    contour = f", true mask {LESION}" if any(mask.any() for mask in masks) else ""
    figure.suptitle(f"{dataset}: highest and lowest scores, normal blue, abnormal red{contour}", fontsize=9)
    return figure


def _side_by_side(pictures: Sequence[np.ndarray], between: int) -> np.ndarray:
    """Pictures (H, W) or (H, W, 3) of one kind as one, parted by columns of a value; axes for each would cost several times as much."""
    gap = _gap(pictures[0].shape[1])
    padded = [np.pad(each, [(0, 0), (0, gap), *[(0, 0)] * (each.ndim - 2)], constant_values=between) for each in pictures]
    return np.concatenate(padded, axis=1)[:, :-gap]


def _gap(width: int) -> int:
    """Columns between pictures of a width."""
    return max(1, width // 16)


def told_lesions(pairs: Rows) -> dict[str, list[Mapping[str, Any]]]:
    """By dataset the lines of a twins.csv that state a lesion: phantoms.csv need not have all abnormal images."""
    by_dataset: dict[str, list[Mapping[str, Any]]] = {}
    for pair in pairs:
        if pair["diameter_mm"] is not None:
            by_dataset.setdefault(pair["dataset"], []).append(pair)
    return by_dataset


def draw_contrast_detail(rows: Lines, pairs: Rows, dataset: str) -> Figure:
    """AUROC and twin rate of a dataset's abnormal images over the diameter and the contrast of their lesions, with the number of each cell.

    A detector that sees lesions rises along the diagonal, from small and faint to large and strong; chance is 0.5.
    """
    table = contrast_detail(pairs, rows.where(dataset=dataset, part="test", label=0).column("score"))
    figure = Figure((8.6, 3.9), layout="constrained")
    for axes, title, values in zip(figure.subplots(1, 2), ("AUROC", "twin rate"), (table.auroc, table.rate), strict=True):
        axes.imshow(values, cmap="RdYlGn", vmin=0, vmax=1, origin="lower")
        for (i, j), count in np.ndenumerate(table.count):
            colour = "black" if not count or 0.1 < values[i, j] < 0.9 else "white"  # the ends of the scale are dark
            axes.text(j, i, f"{values[i, j]:.2f}\n{count}" if count else "0", ha="center", va="center", fontsize=9, color=colour)
        for axis, edges in ((axes.xaxis, table.diameters), (axes.yaxis, table.contrasts)):
            axis.set_ticks(np.arange(len(edges)) - 0.5, [f"{edge:.0f}" for edge in edges])
        axes.set(xlabel="diameter (mm)", ylabel=f"contrast, darker or brighter ({pairs[0].get('unit') or 'no unit'})", title=title)
    figure.suptitle(f"{dataset}: contrast and detail; below each value the number of images", fontsize=9)
    return figure


def draw_latent(rows: Lines, latent: np.ndarray, parts: Sequence[int] | None) -> Figure:
    """The latents of test images by PCA and t-SNE, coloured by organ, modality and abnormality; with MADDR also PCA of each part.

    If the parts are disentangled, the organ part falls apart by organ alone, the modality part by modality alone, the content by neither.
    Of more than `LATENTS` test images some are shown: of each dataset, normal and abnormal, equally many, or all that there are.
    """
    places = np.flatnonzero(rows.column("part") == "test")
    shown = places[_shown(rows.take(places))]
    test, latent = rows.take(shown), latent[shown]
    colours = {key: test.column(key).tolist() for key in ("organ", "modality")}
    colours["abnormal"] = ["abnormal" if label else "normal" for label in test.column("label")]
    views = {"PCA": _pca(latent), "t-SNE": _tsne(latent)}
    if parts is not None:
        ends = [*np.cumsum([0, *parts]), latent.shape[1]]
        for number, name in enumerate(("organ part", "modality part", "content")):
            views[f"PCA of the {name}"] = _pca(latent[:, ends[number] : ends[number + 1]])
    figure = Figure((9, 2.8 * len(views)), layout="constrained")
    for line, (view, points) in zip(figure.subplots(len(views), 3), views.items(), strict=True):
        for axes, (key, words) in zip(line, colours.items(), strict=True):
            _scatter(axes, points, words)
            axes.set_xlabel("component 1 (no unit)", fontsize=6)
            axes.set_ylabel("component 2 (no unit)", fontsize=6)
            axes.set_title(f"{view}, by {key}" if key != "abnormal" else f"{view}, abnormal or not", fontsize=8)
    if len(shown) < len(places):
        figure.suptitle(f"{len(shown):,} of {len(places):,} test images", fontsize=9)
    return figure


def _shown(test: Lines) -> np.ndarray:
    """Places (n,) of the test images whose latents are drawn, at even distances among those of a dataset and label."""
    if len(test) <= LATENTS:
        return np.arange(len(test))
    names, dataset = np.unique(test.column("dataset").astype(str), return_inverse=True)
    groups = [np.flatnonzero((dataset == number) & (test.column("label") == label)) for number in range(len(names)) for label in (0, 1)]
    groups = [group for group in groups if len(group)]
    most = max(1, LATENTS // len(groups))
    return np.sort(np.concatenate([group[np.linspace(0, len(group) - 1, min(len(group), most)).astype(int)] for group in groups]))


def _scatter(axes: Axes, points: np.ndarray, words: Sequence[str]) -> None:
    for word in sorted(set(words), reverse="normal" in words):
        own = points[[each == word for each in words]]
        colour = {"normal": NORMAL, "abnormal": ABNORMAL}.get(word)
        axes.scatter(own[:, 0], own[:, 1], s=5, label=word, color=colour, alpha=0.7)
    axes.set(xticks=[], yticks=[])
    axes.legend(fontsize=6)


def _pca(latent: np.ndarray) -> np.ndarray:
    points = PCA(min(2, *latent.shape), random_state=0).fit_transform(latent)
    return np.pad(points, ((0, 0), (0, 2 - points.shape[1])))


def _tsne(latent: np.ndarray) -> np.ndarray:
    perplexity, init = min(30, (len(latent) - 1) / 3), "pca" if latent.shape[1] > 1 else "random"
    with threadpool_limits(1):  # a thousand short steps, after each of which threads wait for each other: ten times as long where others compute, too
        return TSNE(2, perplexity=perplexity, init=init, random_state=0).fit_transform(latent)


def draw_training(log: Rows) -> Figure:
    """Every loss and accuracy of log.csv along the iterations, a line for each phase, which may lack some. Training and validation share a panel."""
    steps, offset, last = [], 0, ("", 0)
    for row in log:
        if row["phase"] != last[0]:
            offset += last[1]
        last = row["phase"], int(row["iteration"])
        steps.append(offset + last[1])
    skip = ("phase", "iteration", "lr", "images_per_second")
    columns = [column for column in dict.fromkeys(column for row in log for column in row) if column not in skip]
    panels = list(dict.fromkeys(column.removeprefix(VALIDATION) for column in columns))
    across = min(4, len(panels))
    figure = Figure((3 * across, 2.4 * -(-len(panels) // across)), layout="constrained")
    grid = figure.subplots(-(-len(panels) // across), across, squeeze=False).reshape(-1)
    for axes, panel in zip(grid, panels, strict=False):
        for column, part in ((panel, "training"), (VALIDATION + panel, "validation")):
            rows = [(step, row) for step, row in zip(steps, log, strict=True) if row.get(column) not in (None, "")]
            marker = "." if len(rows) < 30 else None
            for _, of_phase in groupby(rows, key=lambda each: each[1]["phase"]):
                points = [(step, float(row[column])) for step, row in of_phase]
                axes.plot(*zip(*points, strict=True), **PARTS[part], marker=marker, linewidth=1, markersize=3, label=part)
        axes.set_title(panel, fontsize=8)
        axes.set_xlabel("iteration (batches)", fontsize=7)
        axes.set_ylabel(next((text for ending, text in UNITS.items() if panel.endswith(ending)), "value (no unit)"), fontsize=7)
        axes.tick_params(labelsize=6)
    for axes in grid[len(panels) :]:
        axes.remove()
    drawn = {line.get_label(): line for axes in figure.axes for line in axes.lines}
    figure.legend(drawn.values(), drawn, loc="outside upper center", ncols=2, fontsize=8)
    return figure
