import base64
import io
import json
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from PIL import Image

from cxr_seam.__main__ import main


def test_models_prints_table_4(capsys):
    assert main(["models", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["name"], row["parameters"], row["paper_parameters"], row["cam_size"]) for row in rows] == [
        ("resnet50", 23_536_718, 23_536_718, [8, 8]),
        ("multires_resnet50", 26_273_615, 26_273_615, [32, 32]),
        ("efficientnet_b4", 17_573_718, 17_573_718, [8, 8]),
        ("multires_efficientnet_b4", 18_913_543, 18_913_543, [32, 32]),
    ]


class Reader(HTMLParser):
    """Collects what a page is made of."""

    def __init__(self):
        super().__init__()
        self.tags, self.sources, self.headings, self.cells = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data):
        (self.headings if self.tags and self.tags[-1] in ("h1", "h2") else self.cells).append(data.strip())


def report_stands_alone(html, results):
    """The page needs nothing from elsewhere, its pictures are pictures, and it holds what the results hold."""
    page = Reader()
    page.feed(html)
    assert not {"script", "link", "iframe"} & set(page.tags) and "@import" not in html and "url(" not in html
    assert len(page.sources) >= 4  # ROC, FROC, loss curves, Fig. 7, and whatever hits and misses there are
    for source in page.sources:
        if source.startswith("#"):  # a link inside the page
            continue
        head, data = source.split(",", 1)
        assert head in ("data:image/png;base64", "data:image/jpeg;base64")
        Image.open(io.BytesIO(base64.b64decode(data))).verify()
    for part in ("Summary", "Classification", "Localization", "Training", "Examples", "Limits"):
        assert part in page.headings
    for metadata in results["checkpoints"].values():
        assert metadata["sha256"] in page.cells
    assert results["versions"]["torch"] in page.cells
    assert {row["method"] for row in results["ranking"]} <= set(page.cells)
    assert "0.417" in page.cells and "not a medical device" in html


def test_every_verb_from_data_to_a_prediction(tmp_path, capsys):
    data, keep = tmp_path / "data", tmp_path / "keep"
    assert main(["demo-data", str(data), "--patients", "12"]) == 0
    choices = ["--data", str(data), "--preset", "tiny", "--output", str(keep)]
    where = ["--data", str(data), "--output", str(keep)]
    for words in (
        ["download", *choices],
        ["train", "multires_tiny", *where],
        ["train", "multires_tiny_pcm", *where],
        ["evaluate", *choices, "--n-bootstrap", "50"],
    ):
        assert main(words) == 0
    assert "Random 8x8 map" in capsys.readouterr().out
    results = keep / "results.json"
    assert main(["compare", str(results), str(results)]) == 0
    assert "Paired: same films" in capsys.readouterr().out
    report_stands_alone((keep / "report.html").read_text(), json.loads(results.read_text()))
    films = sorted((data / "images").iterdir())[:2]
    checkpoint = keep / "models" / "multires_tiny_pcm.best.safetensors"
    out = tmp_path / "predictions"
    assert main(["predict", *map(str, films), "--checkpoint", str(checkpoint), "--out", str(out)]) == 0
    assert "Effusion" in capsys.readouterr().out
    written = {path.name for path in out.iterdir()}
    tables = {"images.csv", "probabilities.csv", "boxes.csv"}
    assert written == tables | {f"{film.stem}_heatmaps.png" for film in films}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["predict", "film.png", "--checkpoint", "missing.safetensors"], "no checkpoint missing.safetensors"),
        (["predict", "a/x/film.png", "b/x/film.png", "--checkpoint", "m"], "have the same name x"),
        (["demo-data", "README.md"], "README.md cannot be made into a folder"),
        (["demo-data", "d", "--seed", "-1"], "must not be negative"),
        (["train", "vgg16"], "no recipe 'vgg16'"),
        (["prepare", "nowhere", "--cache", "s"], "nowhere"),
        (["compare", "a.json", "b.json"], "there is no a.json"),
        (["evaluate", "--data", "nothing-here"], "'nothing-here' is neither one of demo"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(words, sentence, capsys):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1


def test_it_runs_as_a_module():
    run = subprocess.run([sys.executable, "-m", "cxr_seam", "--help"], capture_output=True, text=True, check=True)
    for verb in ("models", "demo-data", "prepare", "train", "evaluate", "compare", "predict"):
        assert verb in run.stdout
