"""The numbers of a spectrum for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray

from gradvis.plots.spectra import SpectrumLike, has_pairs
from gradvis.plots.tables import texts


def as_csv(spectrum: SpectrumLike, file: Path) -> None:
    """A line a node of each finished probe, then one an eigenpair, which has no probe; numbers read back exactly."""
    probe, step = np.nonzero(np.isfinite(spectrum.nodes))
    columns: dict[str, Any] = {"kind": ["node"] * len(probe), "probe": probe + 1, "step": step + 1}
    names = {"eigenvalue": "node", "weight": "weight", "residual": "residual"}
    columns |= {name: spectrum.dataset[of].values[probe, step] for name, of in names.items()}
    columns["converged"] = ["nan"] * len(probe)
    nodes = xarray.Dataset({name: ("row", values) for name, values in columns.items()}).to_dataframe()
    nodes.to_csv(file, index=False, na_rep="nan")
    if has_pairs(spectrum):
        pairs = spectrum.pairs
        with file.open("a", encoding="utf-8") as out:
            lines = zip(pairs.values.tolist(), pairs.residuals.tolist(), pairs.converged.tolist(), strict=True)
            out.writelines(f"pair,nan,nan,{value!r},nan,{error!r},{int(there)}\n" for value, error, there in lines)


def as_nc(spectrum: SpectrumLike, file: Path) -> None:
    """A netCDF 3 file, which keeps no nested attributes: they become JSON text. Eigenvectors are left out."""
    whole = spectrum.dataset[["node", "weight", "residual", "center"]]
    whole = whole.assign(done=("probe", np.asarray(spectrum.done).astype(np.int8)))
    if has_pairs(spectrum):
        pairs = spectrum.pairs
        for name in ("values", "residuals", "converged"):
            numbers = np.asarray(getattr(pairs, name))
            whole[f"pair_{name}"] = ("pair", numbers.astype(np.int8 if name == "converged" else np.float64))
    for name in ("trace", "trace_stderr", "frobenius", "frobenius_stderr"):
        whole[name] = float(getattr(spectrum, name))
    whole.attrs = texts(spectrum.dataset.attrs)
    for name in whole.variables:
        whole[name].attrs = texts(whole[name].attrs)
    whole.to_netcdf(file, engine="scipy")
