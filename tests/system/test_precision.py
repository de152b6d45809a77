"""TensorFloat-32 is off where scores are computed on a GPU, and nothing else of torch's is touched; flags can be read without one."""

import threading

import pytest
import torch

from anomaly_detection.system import precision
from anomaly_detection.system.precision import true_float32

GPU = torch.device("cuda")
cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
by_operation = pytest.mark.skipif(not hasattr(cudnn, "conv"), reason="this torch has the older flags alone")


def exact() -> bool:
    """Whether no operation of a GPU would round to TensorFloat-32."""
    if not hasattr(cudnn, "conv"):
        return not cudnn.allow_tf32 and torch.get_float32_matmul_precision() == "highest"
    return {place.fp32_precision for place in (cudnn.conv, cudnn.rnn, matmul)} == {"ieee"}


def tried(read):
    """What an older flag says, or that it is refused."""
    try:
        return read()
    except RuntimeError:
        return "refused"


def everything() -> dict:
    """All that says how a GPU, or oneDNN, computes."""
    told = {name: getattr(cudnn, name) for name in ("enabled", "benchmark", "deterministic")}
    told |= {"convolutions": tried(lambda: cudnn.allow_tf32), "products": tried(lambda: matmul.allow_tf32)}
    told["all products"] = tried(torch.get_float32_matmul_precision)
    if hasattr(cudnn, "conv"):
        mkldnn = torch.backends.mkldnn
        places = {"conv": cudnn.conv, "rnn": cudnn.rnn, "matmul": matmul, "cudnn": cudnn, "generic": torch.backends, "onednn": mkldnn.matmul}
        told |= {name: place.fp32_precision for name, place in places.items()}
    return told


@pytest.fixture(autouse=True)
def as_torch_begins():
    yield
    cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32 = False, False, True
    torch.set_float32_matmul_precision("highest")
    if hasattr(cudnn, "conv"):
        for place in (torch.backends, cudnn, matmul, torch.backends.mkldnn.matmul):
            place.fp32_precision = "none"


def older(convolutions, products):
    cudnn.allow_tf32 = convolutions
    torch.set_float32_matmul_precision(products)


def newer(**precisions):
    for name, value in precisions.items():
        {"conv": cudnn.conv, "rnn": cudnn.rnn, "matmul": matmul, "cudnn": cudnn, "generic": torch.backends}[name].fp32_precision = value


SET = {
    "nothing": lambda: None,
    "convolutions exact": lambda: older(False, "highest"),
    "products high": lambda: older(True, "high"),
    "products medium": lambda: older(True, "medium"),
    "deterministic": lambda: setattr(cudnn, "deterministic", True),
    "benchmark": lambda: setattr(cudnn, "benchmark", True),
}
SET_BY_OPERATION = {
    "conv ieee": lambda: newer(conv="ieee"),
    "rnn ieee": lambda: newer(rnn="ieee"),
    "matmul tf32": lambda: newer(matmul="tf32"),
    "all of cuDNN": lambda: newer(conv="none", cudnn="tf32"),
    "all backends": lambda: newer(conv="none", generic="tf32"),
    "both ways": lambda: (older(False, "high"), newer(conv="tf32", matmul="ieee")),
}
WAYS = [*SET.items(), *(pytest.param(*item, marks=by_operation) for item in SET_BY_OPERATION.items())]


@pytest.mark.parametrize(("way", "begin"), WAYS)
def test_whatever_was_set_a_gpu_computes_in_float32_and_all_is_as_before(way, begin):
    begin()
    before = everything()
    with true_float32(GPU):
        assert exact()
        inside = everything()
    rest = {"enabled", "benchmark", "deterministic", "cudnn", "generic", "onednn"} & before.keys()
    if hasattr(cudnn, "conv"):
        assert {name: inside[name] for name in rest} == {name: before[name] for name in rest}
    assert inside["enabled"], "cuDNN computes"
    assert inside["convolutions"] is False or before["convolutions"] == "refused"
    assert everything() == before


@by_operation
def test_what_was_inherited_is_inherited_again():
    newer(conv="none", generic="tf32")
    with true_float32(GPU):
        pass
    newer(generic="ieee")
    assert (cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision, matmul.fp32_precision) == ("ieee", "tf32", "ieee"), "rnn has one of its own"


def test_a_baseline_may_set_flags_of_its_own_inside():
    before = everything()
    with true_float32(GPU), cudnn.flags(enabled=False, allow_tf32=False):  # it reads the older ones, to put them back
        assert not cudnn.enabled
    assert everything() == before


@pytest.mark.parametrize("products", ["highest", "high", "medium"])
def test_by_the_older_flags_alone(products, monkeypatch):
    """Those of torch before 2.9, which later ones still take."""
    monkeypatch.setattr(precision, "_by_operation", lambda: False)
    older(True, products)
    before = everything()
    with true_float32(GPU):
        assert not cudnn.allow_tf32
        assert torch.get_float32_matmul_precision() == "highest"
        assert cudnn.enabled
    assert everything() == before


@pytest.mark.parametrize("device", ["cpu", "meta", "mps"])
def test_for_other_devices_nothing_is_done(device):
    before = everything()
    with true_float32(torch.device(device)):
        assert everything() == before
    assert everything() == before


def test_the_last_of_several_threads_puts_back_what_was_before_the_first():
    before, told, turn = everything(), {}, threading.Barrier(2, timeout=10)

    def first():
        with true_float32(GPU):
            turn.wait()
            turn.wait()
        turn.wait()

    def second():
        turn.wait()
        with true_float32(GPU):
            turn.wait()  # both are inside
            turn.wait()  # the first has left
            told["after the first has left"] = exact()
        told["after both have left"] = everything()

    threads = [threading.Thread(target=target) for target in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told == {"after the first has left": True, "after both have left": before}


def test_many_threads_at_once_leave_nothing_behind():
    before, wrong = everything(), []

    def predict():
        for _ in range(200):
            with true_float32(GPU), true_float32(GPU):
                if not exact():
                    wrong.append(everything())

    threads = [threading.Thread(target=predict) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert everything() == before


def test_an_error_leaves_nothing_behind():
    before = everything()
    with pytest.raises(KeyError), true_float32(GPU), true_float32(GPU):
        raise KeyError
    assert everything() == before
