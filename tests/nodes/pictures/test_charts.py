import numpy as np

from sid_pack.nodes.pictures.charts import LINE, PANEL, SMOOTH, Curve, draw_curves, draw_metrics


def places(panel, colour: str) -> np.ndarray:
    """(N, 2) of x, y of a colour's pixels."""
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return np.argwhere((np.asarray(panel) == wanted).all(2))[:, ::-1]


def test_a_curve_goes_where_its_values_go():
    rising = draw_curves([Curve("rising", range(1, 201), [i / 200 for i in range(200)])], columns=1)
    assert rising.size == PANEL
    points = places(rising, LINE)
    assert np.corrcoef(points.T)[0, 1] < -0.99  # the picture's y goes down
    flat = places(draw_curves([Curve("flat", range(1, 201), [3.0] * 200)], columns=1), SMOOTH)
    assert np.ptp(flat[:, 1]) <= 2


def test_one_wild_value_does_not_flatten_the_rest():
    values = [i % 10 for i in range(400)]
    values[3] = 1e9
    ys = places(draw_curves([Curve("wild", range(400), values)], columns=1), LINE)[:, 1]
    assert np.ptp(ys) > PANEL[1] / 3


def test_each_metric_is_drawn_over_its_own_iterations():
    rows = [{"iteration": i, "fake_loss": i / 100} for i in range(1, 101)]
    every_tenth = [{"iteration": i, "seed_spread": 0.5 + i / 200} for i in range(0, 101, 10)]
    warning = {"iteration": 1, "warning": "saturation", "message": "..."}
    sheet = draw_metrics([*every_tenth[:3], warning, *rows, *every_tenth[3:]])
    assert sheet.size == (2 * PANEL[0], PANEL[1])
    for column in range(2):
        points = places(sheet.crop((column * PANEL[0], 0, (column + 1) * PANEL[0], PANEL[1])), LINE)
        assert np.ptp(points[:, 0]) > PANEL[0] * 0.75 and np.corrcoef(points.T)[0, 1] < -0.99
        # Seeds' scale begins at 0, so that from one half to 1 is only the upper half.
        assert (np.ptp(points[:, 1]) > 0.6 * PANEL[1]) == (column == 0)
