"""The page of a run: one file that opens from the disk and shows what is there."""

from __future__ import annotations

import json
import re
import time
from html.parser import HTMLParser

import pytest

from i2i_trainer.gallery import gallery


@pytest.fixture
def run(tmp_path):
    (tmp_path / "samples").mkdir()
    return tmp_path


def write_metrics(run, *lines: dict) -> None:
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


class Page(HTMLParser):
    """Elements and text of a page; tags must close as they were opened."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(page)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]


def points(line: dict) -> list[tuple[float, float]]:
    return [tuple(map(float, pair.split(","))) for pair in line["points"].split()]


def test_a_run_that_has_just_begun_has_a_page(run):
    page = Page(gallery(run))

    assert run.name in page.text
    assert page.all("svg") == page.all("img") == []


def test_samples_stand_newest_first_and_load_when_they_are_seen(run):
    for step in (500, 10000000, 1500):
        (run / "samples" / f"step_{step:07d}.png").touch()

    page = Page(gallery(run))

    assert [(image["src"], image["loading"]) for image in page.all("img")] == [
        ("samples/step_10000000.png", "lazy"),
        ("samples/step_0001500.png", "lazy"),
        ("samples/step_0000500.png", "lazy"),
    ]
    assert "step 1,500" in page.text


def test_the_page_needs_nothing_but_the_samples(run):
    (run / "samples" / "step_0000001.png").touch()
    write_metrics(run, {"step": 1, "G_L1": 1.0})

    page = gallery(run)

    assert "<script" not in page
    assert re.findall(r'(?:src|href)="([^"]*)"|url\(|@import|https?:', page) == ["samples/step_0000001.png"]


def test_losses_share_a_chart_and_each_metric_has_its_own(run):
    write_metrics(
        run,
        {"step": 1, "epoch": 0.1, "stage": "global", "lr": 0.1, "G_gan": 1.0, "G_L1": 9.0, "images_per_s": 30.0},
        {"step": 2, "epoch": 0.2, "stage": "global", "lr": 0.1, "G_gan": 2.0, "G_L1": 5.0, "images_per_s": 30.0},
        {"step": 2, "val_L1": 0.25, "val_PSNR": 21.5, "pictures": 8},
    )

    page = Page(gallery(run))

    charts = [chart["aria-label"] for chart in page.all("svg")]
    assert charts == ["losses over steps", *(f"{n} over steps" for n in ("val_L1", "val_PSNR", "lr", "images_per_s"))]
    assert "G_gan 2" in page.text
    assert "val_PSNR 21.5" in page.text
    assert len(page.all("polyline")) == 6


def test_a_curve_goes_up_where_its_values_do(run):
    write_metrics(run, *({"step": step, "val_SSIM": step / 10} for step in (1, 2, 4)))

    page = Page(gallery(run))
    (first, second, third) = points(page.all("polyline")[0])

    assert third[1] < second[1] < first[1]  # pixels count downwards
    assert third[0] - second[0] == pytest.approx(2 * (second[0] - first[0]), abs=0.2)
    assert re.search(r"0\.1\s*0\.25\s*0\.4\s*1\s*2\s*4", page.text)  # three labels an axis, the middle step rounded


def test_settings_and_names_are_text_whatever_they_hold(run):
    hostile = '</pre><script>alert("x")</script>&amp;'
    (run / "config.toml").write_text(f"data = '{hostile}'\n")
    write_metrics(run, {"step": 1, hostile: 1.0, f"val_{hostile}": 2.0})

    page = Page(gallery(run))

    assert page.all("script") == []
    assert [chart["aria-label"] for chart in page.all("svg")] == ["losses over steps", f"val_{hostile} over steps"]
    assert page.text.count(hostile) == 4  # settings, a legend, a title and its legend


def test_what_is_no_curve_is_left_out(run):
    write_metrics(run, {"step": 1, "G": 1.0}, {"step": 2, "G": float("nan")}, {"step": 3, "G": float("inf")})
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b'\n[1]\n3\n{"G": 5}\n\xff\n{"step": 4, "G"')

    page = Page(gallery(run))

    assert len(points(page.all("polyline")[0])) == 1
    assert "nan" not in page.text.lower()


def test_files_that_are_no_samples_are_left_out(run):
    for name in ("step_0000001.png", "step_0000001 (copy).png", "step_.png", "step_x.png", ".step_0000002.png.partial"):
        (run / "samples" / name).touch()

    assert len(Page(gallery(run)).all("img")) == 1


def test_long_curves_are_thinned_and_the_page_comes_at_once(run):
    lines = ({"step": 50 * n, "lr": 2e-4, "G_gan": n % 2, "G_L1": 1 / n, "D": 0.5} for n in range(1, 10_001))
    write_metrics(run, *lines)

    began = time.perf_counter()
    page = gallery(run)
    took = time.perf_counter() - began

    curves = [points(line) for line in Page(page).all("polyline")]
    assert [len(curve) for curve in curves] == [400] * 4
    assert len({y for _, y in curves[0]}) == 2  # 0 and 1 in turn: of 25, 12 or 13 are 1
    assert "each point the mean of 25 lines" in page
    assert took < 1.0  # 0.08 s where nothing else runs; a busy machine gets time
