"""The picture of the idea: what the script draws is what is committed."""
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def script():
    sys.path.insert(0, str(ROOT / 'tools' / 'dev'))
    try:
        import draw_idea
    finally:
        sys.path.pop(0)
    return draw_idea


def test_drawn_again_it_is_the_committed_file(script):
    drawn, committed = script.render(), script.OUT.read_bytes()
    assert drawn == script.render(), 'two drawings differ'
    if drawn == committed:
        return
    # another matplotlib writes numbers and names otherwise; the picture must be the same
    def parts(data):
        root = ElementTree.fromstring(data)
        return [(item.tag, item.get('style')) for item in root.iter() if item.get('style')]
    assert parts(drawn) == parts(committed), 'run python tools/dev/draw_idea.py'


def test_it_tells_what_it_shows(script):
    root = ElementTree.fromstring(script.OUT.read_bytes())
    svg = '{http://www.w3.org/2000/svg}'
    assert root.get('role') == 'img'
    assert root.find(f'{svg}title').text == script.TITLE
    assert root.find(f'{svg}desc').text == script.DESCRIPTION
    labelled = root.get('aria-labelledby').split()
    assert labelled == [root.find(f'{svg}{tag}').get('id') for tag in ('title', 'desc')]


def test_it_needs_no_font_no_date_and_no_background(script):
    text = script.OUT.read_text()
    assert len(text) < 200_000
    assert '<text' not in text and 'font-family' not in text
    assert not re.search(r'20\d\d-\d\d-\d\d', text)


def test_all_is_inside(script):
    figure = script.draw()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in figure.axes[0].texts]
    for box, text in zip(boxes, figure.axes[0].texts):
        assert 8 < box.x0 and box.x1 < script.WIDTH - 8, text.get_text()
        assert 8 < box.y0 and box.y1 < script.HEIGHT - 8, text.get_text()
    # no words on others
    for i, one in enumerate(boxes):
        for j in range(i):
            assert not one.padded(-2).overlaps(boxes[j]), (i, j)  # but for empty margins


def luminance(colour):
    from matplotlib.colors import to_rgb
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.03928, rgb / 12.92, ((rgb + 0.055) / 1.055)**2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_words_stand_out(script):
    pairs = [(script.INK, script.CARD), (script.GREY, script.CARD), (script.INK, script.WARM_FILL),
             *[(frame, script.CARD) for frame, _ in script.HUES],
             *[pair for pair in script.HUES]]
    for word, ground in pairs:
        lighter, darker = sorted((luminance(word), luminance(ground)), reverse=True)
        ratio = (lighter + 0.05) / (darker + 0.05)
        # WCAG: 4.5 for small letters, 3 for large ones
        assert ratio > 3, (word, ground, ratio)
