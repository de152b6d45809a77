"""How clusters are joined; nothing is sent to one."""

import sys
from types import SimpleNamespace

import pytest

from anomaly_detection.system.backends import _join_cluster


@pytest.mark.parametrize(("address", "asked"), [("tcp://elsewhere:8786", {}), (None, {"n_workers": 3, "threads_per_worker": 1})])
def test_dask_begins_as_many_processes_as_are_wanted_where_it_has_no_cluster(address, asked, monkeypatch):
    """By itself each of its processes does several things at a time; beside an address it takes no number."""
    clients = []
    monkeypatch.setitem(sys.modules, "dask", SimpleNamespace(config=SimpleNamespace(get=lambda *_: address)))
    monkeypatch.setitem(sys.modules, "distributed", SimpleNamespace(Client=lambda **options: clients.append(options)))
    _join_cluster("dask", 3)
    assert clients == [asked]
