"""The house style: it stays within its block, and figures are written whole."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

from sslstep import plotting


def test_style_is_undone():
    before = dict(mpl.rcParams)
    with plotting.style():
        assert mpl.rcParams["font.size"] == 8
    assert dict(mpl.rcParams) == before


def test_parts_and_save(tmp_path):
    t = np.linspace(0, 1, 5)
    with plotting.style():
        fig, (left, right) = plt.subplots(1, 2)
        plotting.mode_curves(left, t, np.outer(t, [1, 2]), np.outer(t, [1.1, 1.9]))
        plotting.time_marks(left, np.array([0.2, np.inf, 0.7]), label="τ")
        right.semilogy(t, np.exp(t))
        plotting.end_labels(right, 1.0, np.array([np.e, np.e]), ["a", "b"])
        plotting.label_panels([left, right])
        # Solid and dashed: told apart without colour. Infinite times have no mark.
        assert [line.get_linestyle() for line in left.lines] == ["-", "--", "-", "--", "--", "--"]
        assert left.get_title(loc="left") == "A"
        heights = sorted(text.xyann[1] for text in right.texts)
        assert heights[1] - heights[0] >= 6
        paths = plotting.save(fig, tmp_path)
    assert [path.name for path in paths] == ["figure.png", "figure.pdf"]
    assert paths[0].read_bytes()[:4] == b"\x89PNG"
    assert paths[1].read_bytes()[:4] == b"%PDF"
    assert not plt.get_fignums()


def test_mode_colors_get_lighter():
    luminance = plotting.mode_colors(10)[:, :3] @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luminance) > 0).all()


def test_eigenvalues_may_be_whole_numbers():
    fig, ax = plt.subplots()
    plotting.eigenvalue_curves(ax, np.arange(2), np.array([[0, 2], [4, 3]]))
    np.testing.assert_array_equal([line.get_ydata() for line in ax.lines], [[np.nan, 4], [2, 3]])
    assert ax.get_ylim() == (1, 12)
    plt.close(fig)
