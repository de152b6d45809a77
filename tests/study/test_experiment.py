"""Where an experiment lies, and what it says of its data before it is trained."""

from pathlib import Path

from anomaly_detection.config.settings import Settings
from anomaly_detection.data.preprocessing import Preprocessing
from anomaly_detection.study.experiment import Experiment, _tell_grey


def test_an_experiment_lies_where_its_settings_say(tmp_path):
    assert Experiment.place(Settings("memae", ["a", "b"], seed=3), Path("r")).folder == Path("r/memae/united/a+b/seed_3")


def test_many_datasets_with_long_names_have_a_folder(tmp_path):
    names = [f"brain_mri_of_the_university_hospital_{number}" for number in range(12)]
    places = [Experiment.place(Settings("memae", chosen), tmp_path).folder for chosen in (names, [*names[:-1], "another"])]
    for place in places:
        place.mkdir(parents=True)
    assert len(set(places)) == 2


def test_grey_data_for_a_network_of_colours_are_told_once(caplog):
    grey, colour = Preprocessing(size=300, channels=3), Preprocessing(size=300, stored_channels=3, channels=3)
    _tell_grey({"a": colour, "b": Preprocessing(channels=3), "c": Preprocessing(size=300)})
    assert not caplog.records
    _tell_grey({"lits": grey, "skin": colour, "brain": grey})
    (record,) = caplog.records
    assert record.message.startswith(
        "lits, brain: prepared in grey: the 3 channels that the network takes hold the same; `prepare` with --channels 3"
    )
