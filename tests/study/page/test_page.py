"""The page of a study: what it holds, what it links to, and that no name of a user becomes markup."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest

from anomaly_detection.study.page.page import to_page
from anomaly_detection.study.render import Table
from tests.study.page.made import HEADING, made_study

VOID = {"img", "meta", "input"}


class Page(HTMLParser):
    """The elements of a page; fails where they do not lie in each other."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.text, self.scripts, self._open = "", [], []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] == "script":
            self.scripts.append(data)
        elif self._open and self._open[-1] != "style":
            self.text += data

    def of(self, tag: str, **attributes) -> list[dict]:
        return [each for name, each in self.elements if name == tag and attributes.items() <= each.items()]


def test_names_of_users_stay_names(tmp_path):
    """A file called like a script is shown, and runs nothing; in the data of the slider it ends no element."""
    name = "{label}/</script><script>alert({i})</script><img src=x>&\"'.png"
    content = made_study(tmp_path / "a & b", ("my.module:<Net>",), name=name)
    text = to_page(content)
    page = Page(text)
    assert len(page.of("script")) == 2, "the values and the program"
    assert not [each for each in page.of("img") if not each["src"].startswith("data:image/jpeg;base64,")]
    assert HEADING in page.text
    assert "my.module:<Net> (united): " in page.text
    (values,) = (json.loads(each) for each in page.scripts if each.startswith("{"))
    test = [row["image"] for row in content.results[0].rows if row["part"] == "test"]
    assert [image for each in values["tests"] for image in each["images"]] == test
    links = [unquote(each["href"]) for each in page.of("a")]
    assert all((content.folder / link).is_file() for link in links)
    assert {link.rpartition("/")[2] for link in links} == {"scores.csv", "roc.png", "gallery_liver_ct.png"}


def test_one_file_that_asks_for_nothing(tmp_path):
    text = to_page(made_study(tmp_path))
    page = Page(text)
    assert not page.of("link")
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|@import|url\(|fetch\(|XMLHttpRequest|innerHTML", text)
    assert all(each.get("alt") for each in page.of("img"))
    assert all(each.get("aria-label") or each.get("aria-hidden") for each in page.of("svg"))
    targets = {each["popovertarget"] for each in page.of("button") if "popovertarget" in each}
    assert targets <= {each["id"] for each in page.of("div") if "popover" in each}
    ids = [each["id"] for _, each in page.elements if "id" in each]
    assert len(ids) == len(set(ids))


def test_every_measure_is_in_the_menu_and_defined(tmp_path):
    page = Page(to_page(made_study(tmp_path)))
    tables = {each["data-name"]: each for each in page.of("div", **{"data-of": "metric"})}
    assert list(tables)[:2] == ["auroc", "patient_auroc"]
    assert "0.625 [0.500, 0.750]" in page.text
    assert {"auroc", "average_precision", "sensitivity", "specificity", "oracle_f1"} <= set(tables)
    assert [name for name, each in tables.items() if "hidden" not in each] == ["auroc"]
    assert "oracle_f1. The harmonic mean of sensitivity and precision, at the threshold with the best accuracy on these very test labels" in page.text


@pytest.mark.parametrize("facts", [{"quick": True}, {"phantom": True}, {}])
def test_a_smoke_run_and_phantoms_say_so_first(tmp_path, facts):
    page = Page(to_page(made_study(tmp_path, **facts)))
    before = page.text[: page.text.index("Does it work?")]
    assert ("numbers mean nothing" in before) == ("quick" in facts)
    assert ("says nothing about patients" in before) == ("phantom" in facts)
    assert ("memae (united): a smoke run does not say. " in page.text) == ("quick" in facts)


def test_one_network_alone(tmp_path):
    page = Page(to_page(made_study(tmp_path, datasets=("liver_ct",), regimes=("separate",))))
    assert "memae (separate): " in page.text
    assert len(page.of("option", value="0")) == 1


@pytest.mark.parametrize(("regime", "hollow"), [("separate", 1), ("united", 2)])
def test_a_threshold_that_predict_does_not_have_is_shown_as_an_estimate(tmp_path, regime, hollow):
    """On lung_xray it is one for want of patients; a network of both that names no domain has another on liver_ct, too."""
    text = to_page(made_study(tmp_path, regimes=(regime,)))
    assert text.count('fill="#fff"') == hollow
    assert ("threshold of its true domain, as if that were told" in text) == (regime == "united")
    assert ("Nothing names the domain of an image" in text) == (regime == "united")


def test_without_abnormal_images_the_page_says_what_it_can(tmp_path):
    page = Page(to_page(made_study(tmp_path, normal_alone=("liver_ct", "lung_xray"))))
    assert "memae (united): not measured. No abnormal test images, so nothing says what it finds. Flagged" in page.text
    assert "There are no abnormal test images" in page.text
    assert "not measured" in page.text
    assert page.text.count("False alarms: ") == 1


def test_one_dataset_without_abnormal_images(tmp_path):
    page = Page(to_page(made_study(tmp_path, normal_alone=("lung_xray",))))
    sentence = page.text[page.text.index("memae (united): ") :]
    assert "lung_xray" not in sentence[: sentence.index("Flagged")]


def test_seeds_are_averaged_and_one_of_them_is_moved(tmp_path):
    content = made_study(tmp_path, seeds=(3, 1, 2), regimes=("maddr", "maddr_organ"))
    page = Page(to_page(content))
    mean = sum(result.metrics["datasets"]["liver_ct"]["auroc"] for result in content.results[:3]) / 3
    assert re.search(rf"{mean:.3f} ± 0\.\d\d\d \[", page.text)
    assert [each["value"] for each in page.of("option") if "value" in each] == ["0", "1"]
    assert "memae maddr, seed 1" in page.text
    assert "each network was trained with 3 seeds" in page.text
    drawn = page.text[: page.text.index("Every measure")]
    assert "maddr_organ" not in drawn, "ablations stand in the tables"
    assert "memae maddr_organ, seed 1" in page.text


def test_twenty_datasets_fit(tmp_path):
    datasets = tuple(f"dataset_{number}" for number in range(20))
    text = to_page(made_study(tmp_path, ("memae", "ganomaly"), datasets=datasets))
    assert "datasets (0." in text, "not named one by one"
    assert len(text) < 1_000_000


def test_what_must_be_known_of_a_table_stands_below_it(tmp_path):
    """Of those that the menu shows, too."""
    content = made_study(tmp_path)
    tables = [replace(content.document.tables[0], note="mind <this>"), Table("others", ["a"], [["b"]], "mind that"), *content.document.tables[1:]]
    page = to_page(replace(content, document=replace(content.document, tables=tables)))
    assert re.search(r'data-name="auroc"(?:(?!data-name=).)*</table></div><p class=\'hint\'>mind &lt;this&gt;</p></div>', page, re.DOTALL)
    assert re.search(r"<summary>others</summary>(?:(?!<summary>).)*</table></div><p class='hint'>mind that</p></details>", page, re.DOTALL)
