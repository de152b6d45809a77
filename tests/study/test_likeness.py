"""Networks that were not trained alike are told from those that were."""

from dataclasses import replace

import pytest

from anomaly_detection.config.settings import MaddrSettings, MixupSettings, Settings
from anomaly_detection.study.likeness import Network, named, unlike, unlike_thresholds
from anomaly_detection.study.regimes import REGIMES
from tests.helpers import ToySettings

TWO = ["lits", "brain"]


def network(regime: str, datasets=TWO, model: str = "memae", width: int = 8, **values) -> tuple[str, Settings]:
    maddr = MaddrSettings(enabled=regime == "maddr")
    return regime, Settings(model, list(datasets), baseline=ToySettings(latent_dim=width), maddr=maddr, **values)


def test_what_was_trained_alike_is_not_told():
    networks = [network("separate", [name]) for name in TWO] + [network("united"), network("maddr"), network("united", model="ganomaly", lr=1.0)]
    assert unlike(networks) == ""
    assert unlike([]) == ""


def test_what_changes_no_weight_is_not_told():
    assert unlike([network("united", threshold_quantile=0.9, log_iter=7, checkpoint_iter=9), network("maddr")]) == ""


def test_a_network_of_one_dataset_by_another_schedule_is_told_with_both_values():
    networks = [network("separate", ["lits"], iterations=16000, width=64), network("separate", ["brain"]), network("united"), network("maddr")]
    told = "memae (separate lits: iterations 16000 instead of 2000, baseline.latent_dim 64 instead of 8)"
    assert unlike(networks) == f"Not compared like for like, since settings differ: {told}."
    others = [network("united", model="toy"), network("maddr", model="toy", mixup=MixupSettings(1, 2))]
    assert unlike([*networks, *others]).endswith(f"{told}; toy (maddr: mixup.first 1 instead of null, mixup.last 2 instead of null).")


def test_regimes_alone_are_compared():
    """Of one regime each network is of another dataset; its seeds are compared, for tables show their mean."""
    separate = [network("separate", ["lits"], lr=0.1), network("separate", ["brain"])]
    assert unlike(separate) == ""
    assert "(separate lits seed 1: lr 0.2 instead of 0.1)" in unlike([*separate, network("separate", ["lits"], lr=0.2, seed=1)])


def test_the_constraint_is_compared_among_seeds_alone():
    regime, settings = network("maddr", seed=1)
    other = regime, replace(settings, maddr=replace(settings.maddr, center_weight=5.0))
    assert unlike([network("united"), network("maddr"), (regime, settings)]) == ""
    told = "(maddr seed 1: maddr.center_weight 5.0 instead of 0.1)"
    assert told in unlike([network("maddr"), other])
    assert told in unlike([network("united"), network("maddr"), other])


def test_the_constraints_of_two_regimes_are_compared_but_for_terms_that_one_lacks():
    def constrained(regime: str, **values) -> tuple[str, Settings]:
        maddr = {key: value for key, value in REGIMES[regime].settings()["maddr"].items() if key != "probe"}
        return regime, replace(network("united")[1], maddr=MaddrSettings(**{**values, **maddr}))

    plain = [network("united"), constrained("maddr_organ"), constrained("maddr_center"), constrained("maddr")]
    assert unlike(plain) == unlike(plain[:3]) == ""
    heavy = constrained("maddr", organ_weight=1.0, center_weight=1.0, organ_dim=32)
    told = "maddr_center: maddr.organ_dim 10 instead of 32, maddr.center_weight 0.1 instead of 1.0"
    organ = "maddr_organ: maddr.organ_dim 10 instead of 32, maddr.organ_weight 0.1 instead of 1.0"
    assert unlike([*plain[:3], heavy]).endswith(f"memae ({organ}; {told}).")
    assert unlike([constrained(name, organ_dim=32) for name in ("maddr_organ", "maddr")] + [network("united")]) == ""


def test_of_many_settings_some_are_told():
    told = unlike([network("united"), network("maddr", lr=1.0, iterations=1, batch_size=1, val_iter=1, image_size=8, bf16=False)])
    assert told.count(" instead of ") == 4
    assert "and 2 more" in told


def test_networks_alike_are_told_together():
    networks = [network("separate", [name], lr=0.1, seed=seed) for name in TWO for seed in (0, 1)] + [network("united", seed=seed) for seed in (0, 1)]
    assert "(separate lits, separate brain: lr 0.1 instead of 0.001)" in unlike(networks)


@pytest.mark.parametrize(("seeds", "words"), [((0, 1, 2), "united"), ((2, 1), "united seed 1 2")])
def test_seeds_are_named_where_not_all_are_meant(seeds, words):
    among = [Network("united", tuple(TWO), seed) for seed in (0, 1, 2)]
    assert named([among[seed] for seed in seeds], among) == words


def test_thresholds_for_other_shares_are_told_with_those_they_are_of():
    networks = [(model, Network(regime, tuple(TWO), seed), 0.95) for model in ("memae", "toy") for regime in ("united", "maddr") for seed in (0, 1)]
    assert unlike_thresholds(networks) == unlike_thresholds([]) == ""
    changed = [(*each[:2], 0.9 if each[0] == "toy" and each[1][0::2] in (("maddr", 0), ("maddr", 1), ("united", 1)) else 0.95) for each in networks]
    assert "share of normal images: 10 % for toy (united seed 1, maddr), 5 % for the others. " in unlike_thresholds(changed)
