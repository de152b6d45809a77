"""What an experiment says of its data before it is trained."""

from anomaly_detection.data.preprocessing import Preprocessing
from anomaly_detection.study.experiment import _tell_grey


def test_grey_data_for_a_network_of_colours_are_told_once(caplog):
    grey, colour = Preprocessing(size=300, channels=3), Preprocessing(size=300, stored_channels=3, channels=3)
    _tell_grey({"a": colour, "b": Preprocessing(channels=3), "c": Preprocessing(size=300)})
    assert not caplog.records
    _tell_grey({"lits": grey, "skin": colour, "brain": grey})
    (record,) = caplog.records
    assert record.message.startswith(
        "lits, brain: prepared in grey: the 3 channels that the network takes hold the same; `prepare` with --channels 3"
    )
