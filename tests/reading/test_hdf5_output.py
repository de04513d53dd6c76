"""HDF5 files on a disk that fills: one line and status 2, whatever was being written, and no crash at the end."""

import json
import subprocess
import sys

import anndata
import h5py
import numpy as np
import pytest
import scipy.sparse

from scdmc.errors import ScDMCError
from scdmc.reading.h5ad import write_h5ad
from scdmc.reading.hdf5_output import has_failed, hdf5_file

# A child for each limit of the size of a file: it writes, and ends as a script does.
CHILDREN = """
import json, os, resource, sys
from pathlib import Path
import anndata
import numpy as np
from scdmc.cli.parser import script
from scdmc.files import atomic_path
from scdmc.reading.h5ad import write_h5ad
from scdmc.reading.hdf5_output import hdf5_file

source, folder = Path(sys.argv[1]), Path(sys.argv[2])
adata = anndata.read_h5ad(source)[:60, :600].copy()
whole = folder / "whole.h5ad"
write_h5ad(adata, whole)

@script
def write(argv):
    write_h5ad(adata, folder / "out.h5ad")
    return 0

@script
def add(argv):
    with atomic_path(folder / "out.h5ad") as temporary:
        temporary.write_bytes(whole.read_bytes())
        with hdf5_file(temporary, "a") as file:
            added = file.create_dataset("obsm/X", (60, 300), dtype=np.float32, fillvalue=np.nan)
            for row in range(60):
                added[row] = np.random.default_rng(row).normal(size=300)
            anndata.io.write_elem(file, "obs", adata.obs)
    return 0

size, found = whole.stat().st_size, []
for main, limits in ((write, np.linspace(100, size - 1, 12)), (add, size + np.linspace(0, 72_000, 8))):
    for limit in limits.astype(int).tolist():
        hear, say = os.pipe()
        child = os.fork()
        if not child:
            os.dup2(say, 2)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            sys.exit(main([]))
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os.close(say)
        found.append([main.__name__, limit, status, open(hear).read(), sorted(os.listdir(folder))])
print(json.dumps(found))
"""


def test_a_file_that_cannot_grow_ends_in_one_line_without_a_crash(tmp_path, islets_path):
    command = [sys.executable, "-c", CHILDREN, str(islets_path), str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(result.stdout)
    assert len(found) == 20
    for name, limit, status, said, files in found:
        assert status == 2, (name, limit, said)
        assert said.startswith("error: "), (name, limit)
        assert said.endswith("File too large\n"), (name, limit, said)
        assert said.count("\n") == 1, (name, limit, said)
        assert files == ["whole.h5ad"], (name, limit)


def content(path):
    """Name -> attributes and bytes of everything in a file."""
    found = {}

    def keep(name, item):
        values = np.asarray(item[()]).tolist() if isinstance(item, h5py.Dataset) else None
        kind = (item.dtype.str, item.compression) if values is not None else None
        found[name] = {key: str(value) for key, value in item.attrs.items()}, kind, values

    with h5py.File(path) as file:
        keep("/", file)
        file.visititems(keep)
    return found


def test_a_whole_file_is_as_anndata_writes_it(tmp_path):
    rng = np.random.default_rng(0)
    counts = scipy.sparse.random(30, 40, density=0.3, random_state=0, format="csr", dtype=np.float32)
    adata = anndata.AnnData(counts, layers={"counts": counts.copy()}, obsm={"X_a": rng.normal(size=(30, 3))})
    adata.obs["type"] = rng.choice(["a", "b"], 30)
    adata.obs["score"] = rng.normal(size=30)
    adata.uns["a"] = {"b": [1, 2], "c": "text"}
    adata.var["kind"] = rng.choice(["gene", "peak"], 40)
    adata.raw = adata
    other = adata.copy()
    write_h5ad(adata, tmp_path / "ours.h5ad")
    other.write_h5ad(tmp_path / "theirs.h5ad", compression="gzip")
    ours, theirs = (content(tmp_path / f"{name}.h5ad") for name in ("ours", "theirs"))
    assert ours == theirs
    assert {"obs/type/categories", "var/kind/categories", "raw/var/kind/categories"} <= set(ours)
    assert (tmp_path / "ours.h5ad").stat().st_size == pytest.approx((tmp_path / "theirs.h5ad").stat().st_size, rel=0.05)


def test_an_error_that_is_not_of_the_disk_passes_and_leaves_the_library_usable(tmp_path):
    def fail(file):
        file["x"] = 1
        raise ScDMCError("mine")

    with pytest.raises(ScDMCError, match="mine"), hdf5_file(tmp_path / "x.h5", "w") as file:
        fail(file)
    assert not has_failed()
    with hdf5_file(tmp_path / "x.h5", "a") as file:
        assert file["x"][()] == 1


class FailsAtItsEnd:
    def __del__(self):
        raise ValueError("of another object")


def test_what_another_object_says_at_its_end_is_heard_while_a_file_is_written(tmp_path, monkeypatch):
    heard = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: heard.append(str(unraisable.exc_value)))
    with hdf5_file(tmp_path / "x.h5", "w"):
        FailsAtItsEnd()
    assert heard == ["of another object"]
