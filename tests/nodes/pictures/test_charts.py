import numpy as np
from pixels import places

from sid_pack.nodes.pictures.charts import LINE, PANEL, SMOOTH, Curve, draw_curves


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
