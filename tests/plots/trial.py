"""Surfaces to draw: closed forms on small grids, without a model."""

from types import SimpleNamespace

import numpy as np
import xarray

from gradvis.tracks import Track

ABOUT = {
    "plane": {"kind": "random", "normalize": "filter", "seed": 7, "include_bias": False},
    "objective": {
        "loss": "cross_entropy", "batch_norm": "eval", "dtype": "float32", "samples": 1797, "unit": "sample",
    },
    "name": "model.pt",
    "complete": True,
    "versions": {"gradvis": "0.1.0"},
}  # fmt: skip
ALPHA, BETA = np.linspace(-1, 1, 5), np.linspace(-1.5, 1.5, 9)


def tilted(a, b):
    """Linear, so that contours and 3-D faces interpolate it exactly; no symmetry hides a swap of the axes."""
    return a + 10 * b


def bowl(a, b):
    """Positive, its minimum 0.05 at (0.5, 0), ratio of the ends over 100."""
    return 0.05 + 3 * (a - 0.5) ** 2 + 5 * b**2


def trial(f, axes=(ALPHA, BETA), done=None, center=None, **metrics):
    """A surface of f and of other metrics by name, over one to three axes."""
    names = ("alpha", "beta", "gamma")[: len(axes)]
    points = np.meshgrid(*axes, indexing="ij")
    values = {name: np.broadcast_to(each(*points), points[0].shape) for name, each in {"loss": f, **metrics}.items()}
    done = np.ones(points[0].shape, bool) if done is None else done
    arrays = {name: (names, np.where(done, value, np.nan)) for name, value in values.items()}
    arrays["loss_stderr"] = (names, np.full(points[0].shape, 0.1))
    center = {"loss": float(f(*[0.0] * len(axes)))} if center is None else center
    dataset = xarray.Dataset(arrays, dict(zip(names, axes, strict=True)))
    return SimpleNamespace(dataset=dataset, metrics=tuple(values), center=center, done=done, about=ABOUT)


# Training runs: places that no symmetry hides, a metric of their own and another one on the plane.
COORDS = np.array([[-0.9, 1.2], [-0.4, 0.6], [0.0, 0.5], [0.25, -0.3], [0.5, -0.25]])
PCA = {
    **ABOUT,
    "plane": {
        "kind": "pca", "components": [1, 2], "anchored": False, "explained_variance": [0.83, 0.104],
        "random_walk": [0.61, 0.15],
    },
}  # fmt: skip


def track(f=bowl, coords=COORDS, name="sgd", steps=None, own=None, rates=None):
    """A run over some places; its plane values are those of f there, its own ones twice as high."""
    count = len(coords)
    plane = f(*np.asarray(coords).T)
    own = 2 * plane if own is None else np.asarray(own, float)
    return Track(
        name=name,
        steps=10.0 * np.arange(count) if steps is None else np.asarray(steps, float),
        labels=tuple(f"{name}-{i}.pt" for i in range(count)),
        coords=np.asarray(coords, float),
        off_plane=np.linspace(3, 0, count),
        own={"loss": own},
        plane={"loss": plane},
        learning_rate=None if rates is None else np.asarray(rates, float),
    )


def trajectory(*tracks, about=PCA):
    """A trajectory of given runs, or of one."""
    return SimpleNamespace(tracks=tracks or (track(),), metrics=("loss",), about=about)


def ground(*tracks, f=bowl):
    """A surface with paths on it."""
    surface = trial(f)
    surface.about, surface.tracks = PCA, tracks
    return surface
