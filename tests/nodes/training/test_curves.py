import numpy as np
from pixels import places

from sid_pack.nodes.pictures.charts import LINE, PANEL
from sid_pack.nodes.training.curves import draw_metrics


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
