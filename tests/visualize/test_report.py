"""The report: escaping, tables, and the page of a real evaluation."""

from __future__ import annotations

import pandas as pd
import pytest
from jinja2 import UndefinedError
from markupsafe import Markup

from cxr_seam.visualize.figures import new_figure
from cxr_seam.visualize.report import image_html, render_page, table_html


def test_tables_and_captions_are_escaped() -> None:
    html = table_html(pd.DataFrame({"<i>": ["<script>"]}))
    assert isinstance(html, Markup) and "<script>" not in html and "<i>" not in html
    assert "&lt;script&gt;" in html
    image = image_html(new_figure(1, 1), 'a "quoted" <b>caption</b>')
    assert "<b>" not in image and 'alt="a &#34;quoted&#34; &lt;b&gt;caption&lt;/b&gt;"' in image


def test_tight_tables_put_intervals_below_values() -> None:
    html = table_html(pd.DataFrame({"AUC": ["0.750 (0.700-0.800)", "-0.050 (-0.100 to 0.020)"]}), "tight")
    assert "0.750<br><small>(0.700-0.800)</small>" in html
    assert "-0.050<br><small>(-0.100 to 0.020)</small>" in html


def test_images_are_jpeg_and_charts_are_png() -> None:
    assert "data:image/png;base64," in image_html(new_figure(1, 1), "chart")
    assert "data:image/jpeg;base64," in image_html(new_figure(1, 1, dark=True), "image")


def test_template_refuses_missing_values() -> None:
    with pytest.raises(UndefinedError):
        render_page()
