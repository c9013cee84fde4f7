"""How the cost of a set grows: points, straight lines through them, and a plot."""
import statistics
from dataclasses import dataclass

GIB = 1 << 30


@dataclass
class Point:
    """One set of `ranks` processes with `bytes` each; seconds."""
    bytes: int
    ranks: int
    stand_still: float
    durable: float


def line_through(pairs):
    """Least squares: (slope, value at 0) of the medians at each x."""
    xs = sorted({x for x, _ in pairs})
    ys = [statistics.median(y for at, y in pairs if at == x) for x in xs]
    if len(xs) < 2:
        return 0.0, ys[0]
    slope, start = statistics.linear_regression(xs, ys)
    return slope, start


class Panel:
    """One plot: points over x and the line through them."""
    WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 360, 240, 60, 42, 34

    def __init__(self, title, axis, pairs, scale, unit):
        self.title, self.axis, self.pairs, self.scale, self.unit = title, axis, pairs, scale, unit
        self.slope, self.start = line_through(pairs)

    def svg(self, left, top):
        width, height = self.WIDTH - self.LEFT - 16, self.HEIGHT - self.BOTTOM - self.TOP
        most_x = max(x for x, _ in self.pairs) * 1.05
        most_y = max(max(y for _, y in self.pairs), self.start + self.slope * most_x) * 1.08

        def at(x, y):
            return self.LEFT + x / most_x * width, self.TOP + height - max(0.0, y) / most_y * height
        parts = [f'<g transform="translate({left},{top})" font-family="sans-serif" font-size="11" fill="#333">',
                 f'<text x="{self.LEFT}" y="18" font-size="13" font-weight="bold">{self.title}</text>']
        for i in range(5):
            x, y = most_x * i / 4, most_y * i / 4
            px, _ = at(x, 0)
            _, py = at(0, y)
            parts += [f'<line x1="{self.LEFT}" y1="{py:.1f}" x2="{self.LEFT + width}" y2="{py:.1f}" stroke="#ddd"/>',
                      f'<text x="{self.LEFT - 6}" y="{py + 4:.1f}" text-anchor="end">{y * self.scale:.3g}</text>',
                      f'<text x="{px:.1f}" y="{self.TOP + height + 16}" text-anchor="middle">{x:.3g}</text>']
        parts.append(f'<text x="{self.LEFT + width / 2}" y="{self.HEIGHT - 10}" text-anchor="middle">{self.axis}</text>')
        parts.append(f'<text x="{self.LEFT - 6}" y="{self.TOP - 4}" text-anchor="end">{self.unit}</text>')
        (x1, y1), (x2, y2) = at(0, self.start), at(most_x, self.start + self.slope * most_x)
        parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#1f77b4" '
                     'stroke-dasharray="5 3"/>')
        for x, y in self.pairs:
            px, py = at(x, y)
            parts.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="#1f77b4" fill-opacity="0.6"/>')
        parts.append("</g>")
        return "\n".join(parts)


class Picture:
    """The SVG, and a sentence with the slopes."""

    def __init__(self, points):
        one = [p for p in points if p.ranks == 1]
        least = min(p.bytes for p in points)
        many = [p for p in points if p.bytes == least]
        panels = [Panel("Stand-still, one process", "GiB", [(p.bytes / GIB, p.stand_still) for p in one], 1e3, "ms"),
                  Panel("Request to durable, one process", "GiB", [(p.bytes / GIB, p.durable) for p in one], 1, "s"),
                  Panel(f"Stand-still, {least >> 20} MiB a rank", "ranks", [(p.ranks, p.stand_still) for p in many],
                        1e3, "ms"),
                  Panel(f"Request to durable, {least >> 20} MiB a rank", "ranks", [(p.ranks, p.durable) for p in many],
                        1, "s")]
        width, height = 2 * Panel.WIDTH, 2 * Panel.HEIGHT
        drawn = [panel.svg(i % 2 * Panel.WIDTH, i // 2 * Panel.HEIGHT) for i, panel in enumerate(panels)]
        self.svg = "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
                              f'viewBox="0 0 {width} {height}">', f'<rect width="{width}" height="{height}" fill="#fff"/>',
                              *drawn, "</svg>", ""])
        still, durable, ranks_still, ranks_durable = panels
        self.legend = (f"Stand-still of one process: {still.start * 1e3:.1f} ms + {still.slope * 1e3:.1f} ms a GiB; "
                       f"durable after {durable.start:.3f} s + {durable.slope:.3f} s a GiB. With {least >> 20} MiB a "
                       f"rank: {ranks_still.start * 1e3:.1f} ms + {ranks_still.slope * 1e3:.2f} ms a rank; durable after "
                       f"{ranks_durable.start:.3f} s + {ranks_durable.slope * 1e3:.1f} ms a rank.")
