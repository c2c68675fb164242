"""The card of real datasets: harmless whatever the input holds, complete, and true to the manifest."""

import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from molstream.errors import DataError
from molstream.pipeline.build import _make_card
from molstream.pipeline.reports.card import EXAMPLES, GRID, NAME, write_card
from molstream.pipeline.reports.charts import WIDTH, bar_chart
from molstream.pipeline.reports.rejections import examples, shown
from molstream.pipeline.shards.histograms import Bar, bars, element_bars, quantiles, seconds, share, time_bars
from molstream.pipeline.shards.manifest import read_manifest
from molstream.pipeline.shards.reader import ShardDataset
from tests.pipeline.conftest import HOSTILE, REJECTED
from tests.support.closed_page import assert_closed

VOID = {"meta", "img", "link", "br", "hr", "input"}


class Page(HTMLParser):
    """A page as a browser takes it: its elements, and the text below each figure and heading."""

    def __init__(self, html: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.figures: list[str] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "figure":
            self.figures.append("")

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
        if "figure" in self.open:
            self.figures[-1] += data


@pytest.fixture(scope="module")
def page(nasty_dataset: Path) -> Page:
    return Page((nasty_dataset / NAME).read_text())


# --- harmless -------------------------------------------------------------------------------------------------------


def test_the_descriptors_are_named(page):
    assert any("NumHDonors, NumRotatableBonds" in text for text in page.texts)


def test_nothing_of_the_input_acts_and_nothing_is_fetched(page):
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "iframe", "object", "embed", "link", "form", "b"}
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        for name in ("src", "href"):
            if name in attributes:
                assert re.match(r"data:image/svg\+xml;base64,|#", attributes[name] or ""), attributes[name]
    for text in HOSTILE[:3]:
        assert any(text in figure for figure in page.figures)
    assert not any("\x1b" in text or "\u202e" in text for text in page.texts)
    assert any("C\\x1b[31mred\\u202egnitset" in figure for figure in page.figures)


def test_links_inside_the_page_lead_somewhere(page):
    ids = {attributes.get("id") for _, attributes in page.elements}
    links = {str(attributes["href"])[1:] for tag, attributes in page.elements if tag == "a"}
    assert len(links) == 6
    assert links <= ids


# --- complete and true ----------------------------------------------------------------------------------------------


def test_the_flow_is_that_of_the_manifest(nasty_dataset, page):
    counts = read_manifest(nasty_dataset).counts
    told = dict(re.findall(r"^(.+?): ([\d,]+) rows, ", "\n".join(page.texts), re.MULTILINE))
    expected = {"written": counts.written, "duplicates": counts.duplicates, "decontaminated": counts.decontaminated}
    expected |= {f"rejected: {reason}": count for reason, count in counts.rejected.items()}
    assert min(expected.values()) > 0
    assert {name: int(count) for name, count in told.items()} == expected
    assert sum(expected.values()) == counts.rows_in


@pytest.mark.parametrize("axis", ["heavy_atoms", "rings", "rotatable_bonds"])
def test_bars_and_tables_tell_every_molecule(nasty_dataset, axis):
    html = (nasty_dataset / NAME).read_text()
    panel = next(p for p in html.split("<figure") if f"<figcaption>{axis.replace('_', ' ')}</figcaption>" in p)
    manifest = read_manifest(nasty_dataset)
    drawn = re.findall(r'class="bar"[^>]*><title>([^:]+): ([\d,]+) molecules</title>', panel)
    listed = re.findall(r"<td>([^<]+)</td><td>([\d,]+)</td>", panel)
    counts = manifest.histograms[axis]
    assert {label: int(count) for label, count in drawn if count != "0"} == counts
    assert {label: int(count) for label, count in listed} == counts
    assert sum(counts.values()) == manifest.num_rows


def test_every_reason_has_examples_with_text_place_and_detail(nasty_dataset, page):
    rejected = pq.read_table(nasty_dataset / "rejected.parquet").to_pylist()
    for reason, count in read_manifest(nasty_dataset).counts.rejected.items():
        rows = [row for row in rejected if row["reason"] == reason]
        assert len(rows) == count
        for row in rows[:EXAMPLES]:
            place = f"{row['source']}:{row['row']}"
            figure = next(f for f in page.figures if place in f.split("\n", 20)[-1] or f"{place}\n" in f)
            assert shown(row["text"], 100).rstrip(".") in figure or not row["text"]
            assert row["detail"][:40] in figure
        assert f"{reason}: {count}" in "".join(page.texts)
    texts = [figure for figure in page.figures if "CCCCC" * 35 in figure]
    assert any("(2,001 characters)" in figure for figure in texts)
    assert all(len(figure) < 1000 for figure in texts)


def test_rejected_molecules_are_drawn_where_they_can_be(page):
    drawn = {attributes["alt"] for tag, attributes in page.elements if tag == "img"}
    assert "drawing of *CC" in drawn
    assert "drawing of CN(C)(C)(C)C" in drawn
    assert not any(text in str(alt) for alt in drawn for text in HOSTILE)


def test_molecules_are_drawn_at_even_distances(nasty_dataset, page):
    dataset = ShardDataset(nasty_dataset)
    total = dataset.num_rows
    assert total > GRID
    stored = dataset.read_rows(range(total), ("smiles", "source", "row")).values
    for k in range(GRID):
        position = k * total // GRID
        place = f"{stored['source'][position]}:{stored['row'][position]}"
        assert any(place in figure and stored["smiles"][position] in figure for figure in page.figures), place


def test_changes_benchmarks_settings_and_sources_are_told(nasty_dataset, page):
    text, manifest = "\n".join(page.texts), read_manifest(nasty_dataset)
    assert manifest.benchmarks == {"set&1.smi": 3}
    assert manifest.changes["largest_fragment"] >= 2
    for word in ("largest_fragment", "set&1.smi", manifest.fingerprint, "rows_per_shard", "etkdg"):
        assert word in text, word
    assert manifest.config["sources"][0]["sha256"] in text
    assert "<b>nasty & co.csv" in text


# --- other datasets -------------------------------------------------------------------------------------------------


def test_a_dataset_without_conformers_targets_or_rejections_has_a_card(bare_dataset):
    html = (bare_dataset / NAME).read_text()
    assert_closed(html)
    page = Page(html)
    assert "energy" not in [figure.strip().split("\n")[0] for figure in page.figures]
    assert "No row was rejected." in html
    assert "fr_urea" not in html
    assert sum("bare.smi:" in figure for figure in page.figures) == 7


def test_all_but_the_times_is_the_same_every_time(nasty_dataset, tmp_path):
    other = Path(shutil.copytree(nasty_dataset, tmp_path / "another name"))
    before = (other / NAME).read_text()
    assert write_card(other).read_text() == before
    (other / "timing.json").unlink()
    without = write_card(other).read_text()
    cut = re.sub(r'<section id="times">.*?</section>\n', "", before, flags=re.DOTALL)
    assert without.replace("\n", "") == cut.replace('<a href="#times">Times</a>', "").replace("\n", "")


def test_a_card_that_fails_does_not_fail_the_dataset(nasty_dataset, tmp_path, capsys):
    other = Path(shutil.copytree(nasty_dataset, tmp_path / "other"))
    (other / NAME).unlink()
    (other / "rejected.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"rejected\.parquet cannot be read"):
        write_card(other)
    _make_card(other)
    told = capsys.readouterr()
    assert told.out == ""
    assert "the dataset is complete, but without a card: " in told.err
    assert not (other / NAME).exists()


def test_examples_are_the_first_of_every_reason(nasty_dataset):
    found = examples(nasty_dataset, read_manifest(nasty_dataset), 3)
    assert [row["text"] for row in found["unparsable"]] == list(HOSTILE[:3])
    for text, reason in REJECTED.items():
        assert [row["text"] for row in found[reason]] == [text]


# --- bins and charts ------------------------------------------------------------------------------------------------

HISTOGRAMS = st.dictionaries(st.integers(-500, 10**6).map(lambda k: str(10 * k)), st.integers(1, 10**9), max_size=60)


@given(HISTOGRAMS, st.sampled_from([1, 10]), st.integers(2, 50))
def test_bars_keep_every_count_in_few_adjacent_bins(histogram, step, most):
    found = bars(histogram, step, most)
    assert sum(bar.count for bar in found) == sum(histogram.values())
    assert len(found) <= most
    edges = [int(bar.tick) for bar in found]
    assert len({b - a for a, b in pairwise(edges)}) <= 1
    assert len({bar.label for bar in found}) == len(found)


def test_rare_extremes_do_not_flatten_a_histogram():
    found = bars({**{str(k): 1000 for k in range(40)}, "99999": 1}, 1, 40)
    assert len(found) == 40
    assert found[-1].label == "39 and more"
    assert found[-1].count == 1001


def test_other_bars():
    assert quantiles({"1": 5, "2": 4, "9": 1}, (0.0, 0.5, 0.9, 1.0)) == [1, 1, 2, 9]
    assert quantiles({}, (0.5,)) == []
    assert [(bar.label, bar.count) for bar in element_bars({"C": 9, "N": 3, "O": 3, "F": 1}, 3)] == [
        ("C", 9),
        ("N", 3),
        ("O, F", 4),
    ]
    assert [(bar.tick, bar.count) for bar in time_bars({"-6": 2, "-4": 1})] == [
        ("10 ms", 2),
        ("22 ms", 0),
        ("46 ms", 1),
    ]
    assert [seconds(v) for v in (4e-5, 0.25, 12, 320, 7500, 4e5)] == [
        "40 us",
        "250 ms",
        "12 s",
        "5 min 20 s",
        "2 h 5 min",
        "4 d 15 h",
    ]
    assert [share(part, 10_000) for part in (0, 1, 5_000, 9_999, 10_000)] == [
        "0.0 %",
        "< 0.1 %",
        "50.0 %",
        "> 99.9 %",
        "100.0 %",
    ]


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("counts", [[], [0], [1], [3, 0, 10**9], list(range(40))])
def test_texts_of_a_chart_do_not_overlap_and_bars_stay_inside(counts, log):
    found = [Bar(f"{k} < {k + 1}", str(1000 * k), count, k) for k, count in enumerate(counts)]
    svg = bar_chart("a < b", found, "x", "y", log)
    ticks = re.findall(r'<text x="([\d.]+)" y="[\d.]+" text-anchor="middle">(\d+)</text>', svg)
    spans = [(float(x) - 3.25 * len(text), float(x) + 3.25 * len(text)) for x, text in ticks]
    assert all(right < left for (_, right), (left, _) in pairwise(spans))
    for x, width, y, height in re.findall(r'"bar" x="([\d.-]+)" width="([\d.]+)" y="([\d.-]+)" height="([\d.]+)"', svg):
        assert float(x) >= 0
        assert float(x) + float(width) <= WIDTH
        assert float(y) >= 0
        assert float(height) >= 0
    assert "a &lt; b" in svg
    Page(svg)
