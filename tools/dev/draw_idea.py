"""Draw the idea of the method: docs/images/idea.svg.

    python tools/dev/draw_idea.py [--out FILE]

The same file comes out of every run with the same matplotlib: no date, no random names; text is
drawn as outlines, so that no font is needed. It stands on a light card of its own, which reads well
on dark pages, too.
"""
import argparse
import io
import sys
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Polygon

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / 'docs' / 'images' / 'idea.svg'
TITLE = 'ScaleNet in one picture'
#: For those who do not see it; the README's text alternative is the same.
DESCRIPTION = (
    'Above, a pretrained transformer of three blocks. Below, the grown one of six: behind each '
    'block a new one that uses the same weights. Those are frozen and stored once. Every block has '
    'LayerNorms of its own and small adapters beside its linear layers; these train.')

WIDTH, HEIGHT = 800, 452  # pixels
INK, GREY, LINE = '#1f2733', '#5d6878', '#9aa5b4'
CARD, EDGE = '#fbfcfe', '#d5dbe4'
#: Of the three blocks' weights: frame and fill. Cool colours are frozen, the warm one trains.
HUES = (('#2f6fc4', '#c9dcf5'), ('#14827f', '#c0e4e0'), ('#6a51b8', '#d9d0f2'))
WARM, WARM_FILL = '#c8560b', '#ffb066'


class Canvas:
    """A figure that is drawn in pixels, from the upper left corner."""

    def __init__(self, width, height):
        self.figure = Figure(figsize=(width / 100, height / 100), dpi=100)
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set_xlim(0, width)
        self.axes.set_ylim(height, 0)
        self.axes.axis('off')

    def box(self, x, y, width, height, frame, fill, line=1.2, radius=6., dashed=False, order=2):
        """Draw a box with round corners."""
        self.axes.add_patch(FancyBboxPatch(
            (x + radius, y + radius), width - 2 * radius, height - 2 * radius,
            boxstyle=f'round,pad={radius}', linewidth=line, edgecolor=frame, facecolor=fill,
            linestyle=(0, (3.2, 2.2)) if dashed else '-', zorder=order))

    def text(self, x, y, words, size=9., colour=INK, bold=False, across='center', down='center'):
        """Write; size in points, of which 72 are 100 pixels."""
        if down == 'center':  # of the letters without what hangs below the line
            y -= 0.24 * size
        self.axes.text(x, y, words, fontsize=size, color=colour, ha=across,
                       va='center_baseline' if down == 'center' else down, zorder=6,
                       fontweight='bold' if bold else 'normal', linespacing=1.35)

    def arrow(self, start, end, colour=LINE, line=1.3, head=True, bend=0., dashed=False, order=1):
        """Draw an arrow or a line."""
        self.axes.add_patch(FancyArrowPatch(
            start, end, arrowstyle='-|>,head_length=3.6,head_width=2' if head else '-',
            connectionstyle=f'arc3,rad={bend}', linewidth=line, color=colour, shrinkA=0, shrinkB=0,
            mutation_scale=1.2, linestyle=(0, (1.2, 2.2)) if dashed else '-', zorder=order))

    def adapter(self, x, y, width, height):
        """Draw an adapter: narrow in the middle, as its rank is small."""
        middle, waist = y + height / 2, height * 0.2
        self.arrow((x + width / 3, middle), (x + width * 2 / 3, middle), WARM, 1.2, head=False,
                   order=3)
        for side in (0, 1):
            outer, inner = x + side * width, x + width * (0.5 + (side - 0.5) * 0.16)
            self.axes.add_patch(Polygon(
                [(outer, y), (inner, middle - waist), (inner, middle + waist), (outer, y + height)],
                closed=True, linewidth=1., edgecolor=WARM, facecolor=WARM_FILL,
                joinstyle='round', zorder=4))

    def norm(self, x, y, width, height=9.):
        """Draw a LayerNorm."""
        self.box(x, y, width, height, WARM, WARM_FILL, line=1., radius=3., order=4)


def draw():
    """Figure: The picture."""
    canvas = Canvas(WIDTH, HEIGHT)
    canvas.box(2, 2, WIDTH - 4, HEIGHT - 4, EDGE, CARD, line=1., radius=12., order=0)

    left, step, width = 152, 104, 84
    above, below = 28, 132
    canvas.text(24, above + 18, 'pretrained', 11.5, bold=True, across='left')
    canvas.text(24, above + 38, 'three blocks', 9, GREY, across='left')
    canvas.text(24, below + 52, 'grown', 11.5, bold=True, across='left')
    canvas.text(24, below + 64, 'six blocks, the\nsame weights', 9, GREY, across='left', down='top')

    for i, (frame, fill) in enumerate(HUES):
        x = left + 2 * i * step
        canvas.box(x, above, width, 50, frame, fill)
        canvas.text(x + width / 2, above + 25, f'block {i + 1}', 10, frame, bold=True)
        end = x + 2 * step if i < 2 else x + width + 30
        canvas.arrow((x + width + 3, above + 25), (end - 3, above + 25))
        # the base's names stay: the grown model reads its files
        canvas.arrow((x + width / 2, above + 53), (x + width / 2, below - 3), frame, 1.2,
                     head=False, dashed=True)
    canvas.arrow((left - 22, above + 25), (left - 3, above + 25))

    tall = 118
    canvas.arrow((left - 22, below + tall / 2), (left - 3, below + tall / 2))
    for i in range(6):
        (frame, fill), again = HUES[i // 2], bool(i % 2)
        x = left + i * step
        canvas.box(x, below, width, tall, frame, CARD if again else fill, dashed=again)
        canvas.norm(x + 10, below + 12, width - 20)
        canvas.text(x + width / 2, below + 41, f'block {i // 2 + 1}', 10, frame, bold=True)
        canvas.text(x + width / 2, below + 57, 'again' if again else 'frozen', 8.5, frame)
        canvas.norm(x + 10, below + 71, width - 20)
        canvas.adapter(x + width / 2 - 18, below + 89, 36, 18)
        end = x + step if i < 5 else x + width + 25
        canvas.arrow((x + width + 3, below + tall / 2), (end - 3, below + tall / 2))
        if again:
            canvas.arrow((x - step + width * 0.66, below - 3), (x + width * 0.4, below - 3), frame,
                         1.3, head=False, bend=-0.34)
            canvas.text(x - (step - width) / 2, below - 27, 'same weights', 7.6, frame)

    draw_detail(canvas, 24, 276)
    draw_legend(canvas, 428, 276)
    return canvas.figure


def draw_detail(canvas, x, y):
    """Draw one linear layer with its adapter."""
    frame, fill = HUES[0]
    canvas.box(x, y, 384, 152, EDGE, '#ffffff', line=1., radius=8., order=1)
    canvas.text(x + 14, y + 20, 'a linear layer with its adapter', 9, GREY, across='left')
    middle, lower = y + 62, y + 116
    canvas.text(x + 22, middle, '$x$', 12)
    canvas.arrow((x + 32, middle), (x + 117, middle))
    canvas.box(x + 120, middle - 25, 118, 50, frame, fill)
    canvas.text(x + 179, middle - 7, 'weights $W$', 10, frame, bold=True)
    canvas.text(x + 179, middle + 11, 'frozen, shared', 8.5, frame)
    canvas.arrow((x + 241, middle), (x + 297, middle))
    canvas.arrow((x + 62, middle), (x + 62, lower), head=False)
    canvas.arrow((x + 62, lower), (x + 117, lower))
    canvas.adapter(x + 120, lower - 20, 118, 40)
    canvas.text(x + 145, lower, 'down', 8.5)
    canvas.text(x + 213, lower, 'up', 8.5)
    canvas.arrow((x + 241, lower), (x + 309, lower), head=False)
    canvas.arrow((x + 309, lower), (x + 309, middle + 13))
    canvas.box(x + 298, middle - 11, 22, 22, LINE, CARD, line=1.3, radius=11.)
    canvas.text(x + 309, middle + 0.5, '+', 12)
    canvas.arrow((x + 321, middle), (x + 352, middle))
    canvas.text(x + 364, middle, '$y$', 12)


def draw_legend(canvas, x, y):
    """Tell what is frozen, what is used again and what trains."""
    canvas.box(x, y, 348, 152, EDGE, '#ffffff', line=1., radius=8., order=1)
    rows = (
        ('frozen', 'the pretrained weights, stored once'),
        ('used again', 'by a new block, which has none of its own'),
        ('trains', 'LayerNorms and adapters, in every block'),
    )
    for i, (name, words) in enumerate(rows):
        top = y + 17 + 44 * i
        if i < 2:
            for j, (frame, fill) in enumerate(HUES):
                canvas.box(x + 14 + 17 * j, top + 4, 14, 22, frame, CARD if i else fill, radius=3.,
                           line=1.1, dashed=bool(i), order=3)
        else:
            canvas.norm(x + 14, top + 2, 48)
            canvas.adapter(x + 20, top + 15, 36, 15)
        canvas.text(x + 76, top + 7, name, 9.5, WARM if i == 2 else INK, bold=True, across='left')
        canvas.text(x + 76, top + 24, words, 8.5, GREY, across='left')


def render():
    """bytes: The SVG file."""
    with matplotlib.rc_context({
            'svg.hashsalt': 'idea', 'svg.fonttype': 'path', 'font.family': 'DejaVu Sans',
            'mathtext.fontset': 'dejavusans'}):
        figure, file = draw(), io.BytesIO()
        FigureCanvasSVG(figure).print_svg(
            file, metadata=dict(Date=None, Creator=None, Format=None, Type=None))
    text = file.getvalue().decode()
    # what screen readers tell
    start = text.index('>', text.index('<svg')) + 1
    opening = text[text.index('<svg'):start]
    named = (opening[:-1] + ' role="img" aria-labelledby="title description">'
             f'\n <title id="title">{TITLE}</title>\n <desc id="description">{DESCRIPTION}</desc>')
    lines = text.replace(opening, named, 1).splitlines()
    return ('\n'.join(line.rstrip() for line in lines) + '\n').encode()


def main():
    """Write the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, default=OUT, metavar='FILE',
                        help='an .svg file, or a .png of twice the size to look at. Default: '
                        'docs/images/idea.svg')
    args = parser.parse_args()
    if args.out.suffix == '.png':
        draw().savefig(args.out, dpi=200, transparent=True)
    else:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_bytes(render())
    print(args.out)


if __name__ == '__main__':
    sys.exit(main())
