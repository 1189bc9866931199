import numpy as np

from sid_pack.nodes.curves import LINE, PANEL, SMOOTH, TITLES, Curve, draw_curves, draw_metrics


def places(panel, colour: str) -> np.ndarray:
    """(N, 2) of x, y of a colour's pixels."""
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return np.argwhere((np.asarray(panel) == wanted).all(2))[:, ::-1]


def test_a_curve_goes_where_its_values_go():
    rising = draw_curves(range(1, 201), [Curve("rising", [i / 200 for i in range(200)])], columns=1)
    assert rising.size == PANEL
    points = places(rising, LINE)
    assert np.corrcoef(points.T)[0, 1] < -0.99  # the picture's y goes down
    flat = places(draw_curves(range(1, 201), [Curve("flat", [3.0] * 200)], columns=1), SMOOTH)
    assert np.ptp(flat[:, 1]) <= 2


def test_one_wild_value_does_not_flatten_the_rest():
    values = [i % 10 for i in range(400)]
    values[3] = 1e9
    ys = places(draw_curves(range(400), [Curve("wild", values)], columns=1), LINE)[:, 1]
    assert np.ptp(ys) > PANEL[1] / 3


def test_metrics_are_drawn_without_warnings_from_the_first_row_on():
    row = {"iteration": 1} | dict.fromkeys(TITLES, 0.5)
    one = draw_metrics([row])
    both = draw_metrics([row, {"iteration": 1, "warning": "saturation", "message": "..."}])
    assert np.array_equal(np.asarray(one), np.asarray(both))
    assert one.size == (2 * PANEL[0], 2 * PANEL[1])
