import base64
import io
import json
import subprocess
import sys
from html.parser import HTMLParser

import pandas as pd
import pytest
from PIL import Image

from cxr_seam.__main__ import main
from cxr_seam.models.checkpoint import QUICKSTART_FILE


def test_models(capsys):
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
    assert len(page.sources) >= 4  # ROC, FROC, loss curves, Fig. 7, and the hits and misses, if any
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


def test_every_verb(tmp_path, capsys):
    data, output = tmp_path / "data", tmp_path / "output"
    assert main(["demo-data", str(data), "--patients", "12"]) == 0
    choices = ["--data", str(data), "--preset", "tiny", "--output", str(output)]
    where = ["--data", str(data), "--output", str(output)]
    for words in (
        ["download", *choices],
        ["train", "multires_tiny", *where],
        ["train", "multires_tiny_pcm", *where],
        ["evaluate", *choices, "--n-bootstrap", "50"],
    ):
        assert main(words) == 0
    assert "Random 8x8 map" in capsys.readouterr().out
    results = output / "results.json"
    assert main(["compare", str(results), str(results)]) == 0
    assert "paired" in capsys.readouterr().out.lower()
    report_stands_alone((output / "report.html").read_text(), json.loads(results.read_text()))
    images = sorted((data / "images").iterdir())[:2]
    checkpoint = output / "models" / "multires_tiny_pcm.best.safetensors"
    out = tmp_path / "predictions"
    assert main(["predict", *map(str, images), "--checkpoint", str(checkpoint), "--out", str(out)]) == 0
    assert "Effusion" in capsys.readouterr().out
    written = {path.name for path in out.iterdir()}
    tables = {"images.csv", "scores.csv", "boxes.csv"}
    assert written == tables | {f"{image.stem}_heatmaps.png" for image in images}


def test_predict_uses_the_packaged_model_and_says_so(demo_folder, tmp_path, capsys):
    image = sorted((demo_folder / "images").iterdir())[0]
    assert main(["predict", str(image), "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert "quick-start" in printed.err and "research" in printed.err
    scores = pd.read_csv(tmp_path / "scores.csv").set_index("finding")["raw_score"]
    assert main(["predict", str(image), "--checkpoint", str(QUICKSTART_FILE), "--out", str(tmp_path)]) == 0
    assert "quick-start" not in capsys.readouterr().err
    assert pd.read_csv(tmp_path / "scores.csv").set_index("finding")["raw_score"].equals(scores)
    assert main(["predict", str(image), "--checkpoint", "", "--out", str(tmp_path)]) == 2


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["predict", "image.png", "--checkpoint", "missing.safetensors"], "missing.safetensors"),
        (["predict", "a/x/image.png", "b/x/image.png", "--checkpoint", "m"], "x"),
        (["demo-data", "README.md"], "README.md"),
        (["demo-data", "d", "--seed", "-1"], "-1"),
        (["train", "vgg16"], "vgg16"),
        (["prepare", "nowhere", "--cache", "s"], "nowhere"),
        (["compare", "a.json", "b.json"], "a.json"),
        (["evaluate", "--data", "nothing-here"], "nothing-here"),
        (["download", "--layout", "chexpert:twos"], "chexpert:twos"),
        (["export", "missing.safetensors", "--onnx", "m.onnx"], "missing.safetensors"),
        (["export", "m.safetensors"], "--onnx"),
    ],
)
def test_bad_input_is_one_line_and_status_2(words, named, capsys):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert named in error and error.count("\n") == 1


def test_a_warning_is_printed_once(tmp_path):
    """`train` needs the tables to prepare the images and to split them; the reader warns of two names."""
    data = tmp_path / "data"
    (data / "images").mkdir(parents=True)
    for name in "abcd":
        Image.effect_noise((80, 80), 50).save(data / "images" / f"{name}.png")
    rows = "a.jpg,a,train,1\nb.png,b,train,1\nc.jpg,c,train,1\nd.png,d,train,1\n"
    (data / "images.csv").write_text(f"image,patient,split,Mass\n{rows}")
    words = ["train", "multires_tiny_pcm", "--data", str(data), "--output", str(tmp_path / "output")]
    run = subprocess.run([sys.executable, "-m", "cxr_seam", *words], capture_output=True, text=True)
    assert "3 training images, 1 validation image\n" in run.stdout  # then it misses the model to begin with
    assert run.returncode == 2 and run.stderr.count("a.jpg is a.png, c.jpg is c.png") == 1


def test_a_closed_pipe_ends_silently():
    command = [sys.executable, "-m", "cxr_seam", "models", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        run.stdout.close()
        assert run.stderr.read() == ""
    assert run.returncode == 141


def test_module_lists_verbs():
    run = subprocess.run([sys.executable, "-m", "cxr_seam", "--help"], capture_output=True, text=True, check=True)
    verbs = (
        "models",
        "demo-data",
        "prepare",
        "download",
        "train",
        "evaluate",
        "compare",
        "selfcheck",
        "predict",
        "export",
    )
    assert all(verb in run.stdout for verb in verbs)


def test_models_imports_neither_training_nor_figures():
    program = "import sys; from cxr_seam.__main__ import main; main(['models', '--json']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "cxr_seam.models.multires" in loaded
    assert not {"cxr_seam.training", "cxr_seam.visualize", "cxr_seam.evaluation", "cxr_seam.data.cache"} & loaded
