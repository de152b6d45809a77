"""AUROCs of a study read a second time: from its scores alone, by scikit-learn alone. Nothing of the package is imported.

A line for each model and regime, and for `maddr` minus each other regime: AUROC of each dataset and the mean of the datasets, each a mean over the
seeds that have all datasets, and the number of these seeds. An experiment is taken from the first place that holds it.
"""

import argparse
import csv
import gzip
from collections import defaultdict
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score


def scores(place):
    """Model, regime, seed, line and score: of every scores.csv of a results folder, or of a file with a column MODEL:REGIME:SEED for each."""
    if place.is_file():
        for row in csv.DictReader(gzip.decompress(place.read_bytes()).decode().splitlines()):
            yield from ((*name.split(":"), row, score) for name, score in row.items() if ":" in name and score)
    for path in place.glob("*/*/*/seed_*/scores.csv"):
        rows = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
        yield from ((*path.parts[-5:-3], path.parts[-2][5:], row, row["score"]) for row in rows)


def reading(places):
    """The datasets, and {(model, regime or difference): ([mean over seeds of each dataset's AUROC, ..., of their mean], number of seeds)}."""
    images, networks, lines = defaultdict(lambda: defaultdict(dict)), defaultdict(dict), {}
    for model, regime, seed, row, score in (each for place in places[::-1] for each in scores(Path(place)) if each[3]["part"] == "test"):
        images[row["dataset"]][model, regime, seed][row["image"]] = int(row["label"]), float(score)
    for model, regime, seed in set.intersection(*map(set, images.values())):
        values = [roc_auc_score(*zip(*pairs[model, regime, seed].values(), strict=True)) for pairs in images.values()]
        networks[model, regime][seed] = np.array([*values, np.mean(values)])
    for (model, regime), seeds in networks.items():
        lines[model, regime] = np.mean(list(seeds.values()), axis=0), len(seeds)
        maddr = networks.get((model, "maddr"), {})
        if regime != "maddr" and (pairs := [maddr[seed] - seeds[seed] for seed in seeds if seed in maddr]):
            lines[model, f"maddr - {regime}"] = np.mean(pairs, axis=0), len(pairs)
    return list(images), lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.second_reading", description=__doc__)
    parser.add_argument("places", nargs="+", metavar="PLACE", help="a results folder, or a file of stored scores")
    datasets, lines = reading(parser.parse_args().places)
    print("model", "regime", *datasets, "mean", "seeds", sep="\t")
    for (model, regime), (values, seeds) in sorted(lines.items()):
        print(model, regime, *(f"{value:.3f}" for value in values), seeds, sep="\t")
