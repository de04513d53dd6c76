"""Files from strangers: none has another file read, copied or changed, or takes memory for what it only claims."""

import gzip
import json
import os
import random
import shutil
import time

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from scdmc.errors import ScDMCError
from scdmc.reading.counts import open_counts
from scdmc.reading.h5ad import add_obs, new_obsm, require_room_for_results, results_file
from tests.reading.reading import read_all

SECRET = b"a secret of the reader, of eighty-eight bytes and more, which no output may ever hold ......"
N_CELLS, N_GENES = 44, 30


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A small file as AnnData writes it."""
    path = tmp_path_factory.mktemp("whole") / "cells.h5ad"
    counts = scipy.sparse.random(N_CELLS, N_GENES, 0.3, "csr", np.float32, np.random.default_rng(0))
    counts.data = np.ceil(counts.data * 9)
    obs = pd.DataFrame({"batch": ["a", "b"] * 22, "n": np.arange(44)}, index=[f"cell_{i}" for i in range(N_CELLS)])
    var = pd.DataFrame(index=[f"ENSG{i:011d}" for i in range(N_GENES)])
    adata = anndata.AnnData(counts, obs, var, obsm={"X_old": np.ones((N_CELLS, 2))}, layers={"other": counts})
    adata.write_h5ad(path)
    return path


@pytest.fixture
def folder(whole, tmp_path):
    """A folder with the file, and beside the folder what is none of its business."""
    folder = tmp_path / "mine"
    folder.mkdir()
    shutil.copy(whole, folder / "cells.h5ad")
    shutil.copy(whole, tmp_path / "victim.h5ad")
    shutil.copy(whole, folder / "neighbour.h5ad")
    (tmp_path / "secret.txt").write_bytes(SECRET)
    os.mkfifo(folder / "pipe.h5ad")
    (folder / "link.h5ad").symlink_to(tmp_path / "victim.h5ad")
    return folder


def change(path, make):
    with h5py.File(path, "a") as file:
        make(file)


def replace(file, name, value):
    del file[name]
    file[name] = value


def replace_virtual(file, name, source, dataset, length=None):
    shape, dtype = file[name].shape, file[name].dtype
    layout = h5py.VirtualLayout(shape, dtype)
    n = shape[0] if length is None else length
    layout[:n] = h5py.VirtualSource(source, dataset, (n,))
    del file[name]
    file.create_virtual_dataset(name, layout)


def replace_bomb(file, name, size, **options):
    attributes, dtype = dict(file[name].attrs), file[name].dtype
    del file[name]
    file.create_dataset(name, (size,), dtype, chunks=options.pop("chunks", (1000,)), **options)
    file[name].attrs.update(attributes)


def replace_external(file, name, target):
    del file[name]
    file.create_dataset(name, (N_CELLS,), "S2", external=[(str(target), 0, 2 * N_CELLS)])


def nest(file, depth):
    group = file["layers"]
    for _ in range(depth):
        group = group.create_group("g")


def bomb_of_all(file):
    replace_bomb(file, "X/indptr", 10**12 + 1)
    file["X"].attrs["shape"] = (10**12, N_GENES)
    replace_bomb(file, "obs/_index", 10**11)


OUTER, PIPE = "../victim.h5ad", "pipe.h5ad"

# What is done to a file, and words of the refusal of those who read it.
NOT_READ = {
    "link out": (lambda f: replace(f, "obs", h5py.ExternalLink(OUTER, "/obs")), "outside of the folder"),
    "link within": (lambda f: replace(f, "X/data", h5py.ExternalLink(OUTER, "/X/data")), "outside of the folder"),
    "absolute link": (lambda f: replace(f, "X", h5py.ExternalLink("/etc/passwd", "/X")), "outside of the folder"),
    "link by a link": (lambda f: replace(f, "X", h5py.ExternalLink("link.h5ad", "/X")), "outside of the folder"),
    "pipe": (lambda f: replace(f, "obs", h5py.ExternalLink(PIPE, "/obs")), "there is no such file"),
    "device": (lambda f: replace(f, "obs", h5py.ExternalLink("/dev/zero", "/obs")), "outside of the folder"),
    "nothing": (lambda f: replace(f, "var", h5py.ExternalLink("none.h5ad", "/var")), "there is no such file"),
    "no such part": (lambda f: replace(f, "var", h5py.ExternalLink("neighbour.h5ad", "/q")), "cannot be opened"),
    "soft nothing": (lambda f: replace(f, "X/data", h5py.SoftLink("/nowhere")), "which is not there"),
    "circle": (lambda f: f["layers"].__setitem__("self", f["/"]), "leads back"),
    "soft circle": (lambda f: f["layers"].__setitem__("self", h5py.SoftLink("/layers")), "leads back"),
    "deep": (lambda f: nest(f, 300), "more than 100 groups"),
    "values elsewhere": (lambda f: replace_external(f, "obs/batch", "../secret.txt"), "keeps its values in"),
    "virtual out": (lambda f: replace_virtual(f, "X/data", OUTER, "X/data"), "outside of the folder"),
    "virtual nothing": (lambda f: replace_virtual(f, "X/data", "none.h5ad", "X/data"), "there is no such file"),
    "virtual part": (lambda f: replace_virtual(f, "X/data", "neighbour.h5ad", "X/data", 100), "values only"),
    "virtual shorter": (lambda f: replace_virtual(f, "X/data", "neighbour.h5ad", "obs/n"), "which is shorter"),
    "virtual no part": (lambda f: replace_virtual(f, "X/data", "neighbour.h5ad", "X/q"), "there are none"),
    "indptr": (lambda f: replace_bomb(f, "X/indptr", 10**12), "GiB of values, but the file holds 0 bytes"),
    "data": (lambda f: replace_bomb(f, "X/data", 10**12, fillvalue=1), "GiB of values"),
    "index": (lambda f: replace_bomb(f, "obs/_index", 10**11), "GiB of values"),
    "all of it": (bomb_of_all, "GiB of values"),
    "chunk": (lambda f: replace_bomb(f, "X/data", 10**9, chunks=(10**9,)), "GiB"),
}  # fmt: skip


@pytest.mark.parametrize("case", NOT_READ)
def test_what_leads_elsewhere_or_claims_too_much_is_refused_at_once(folder, case):
    make, says = NOT_READ[case]
    path = folder / "cells.h5ad"
    change(path, make)
    start = time.process_time()
    with pytest.raises(ScDMCError) as error:
        read_all(path)
    assert time.process_time() - start < 1
    assert says in str(error.value)
    assert "cells.h5ad" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("case", ["link", "soft", "virtual"])
def test_what_lies_in_the_same_folder_is_read(folder, case):
    path = folder / "cells.h5ad"
    expected = read_all(path)
    change(path, {
        "link": lambda f: replace(f, "X", h5py.ExternalLink("neighbour.h5ad", "/X")),
        "soft": lambda f: replace(f, "X", h5py.SoftLink("/layers/other")),
        "virtual": lambda f: replace_virtual(f, "X/data", "neighbour.h5ad", "X/data"),
    }[case])  # fmt: skip
    np.testing.assert_array_equal(read_all(path), expected)


# What must not be copied: an output may lie in another folder, and who adds to it would add to the other file.
NOT_COPIED = {
    "obsm": lambda f: replace(f, "obsm", h5py.ExternalLink(OUTER, "/obsm")),
    "obs": lambda f: replace(f, "obs", h5py.ExternalLink(OUTER, "/obs")),
    "obsm of a neighbour": lambda f: replace(f, "obsm", h5py.ExternalLink("neighbour.h5ad", "/obsm")),
    "a column": lambda f: replace(f, "obs/batch", h5py.ExternalLink(OUTER, "/obs/batch")),
    "uns": lambda f: f["uns"].__setitem__("more", h5py.ExternalLink("/etc/passwd", "/")),
    "values": lambda f: replace_external(f, "obs/batch", "../secret.txt"),
    "virtual": lambda f: replace_virtual(f, "obs/n", OUTER, "obs/n"),
}


def add_results(output, path):
    with results_file(output, path) as file:
        add_obs(file, {"label": np.zeros(N_CELLS)})
        new_obsm(file, "X_scDMC", (N_CELLS, 2))[:] = 1


@pytest.mark.parametrize("case", NOT_COPIED)
def test_a_copy_for_results_has_nothing_of_another_file_and_changes_none(folder, case):
    path, output = folder / "cells.h5ad", folder.parent / "out" / "result.h5ad"
    output.parent.mkdir()
    change(path, NOT_COPIED[case])
    others = [folder.parent / "victim.h5ad", folder / "neighbour.h5ad", folder.parent / "secret.txt"]
    before = [other.read_bytes() for other in others]
    with pytest.raises(ScDMCError, match="leads to another file, or keeps its values there"):
        require_room_for_results(path, path.parent)
    with pytest.raises(ScDMCError, match="another file"):
        add_results(output, path)
    assert [other.read_bytes() for other in others] == before
    assert not output.exists()


def test_links_within_a_file_are_copied_and_results_are_added(folder):
    path, output = folder / "cells.h5ad", folder / "result.h5ad"
    change(path, lambda f: (f.move("obsm", "uns/more"), f.__setitem__("obsm", h5py.SoftLink("/uns/more"))))
    before = path.read_bytes()
    require_room_for_results(path, path.parent)
    add_results(output, path)
    assert path.read_bytes() == before
    assert set(anndata.read_h5ad(output).obsm) == {"X_old", "X_scDMC"}


@pytest.mark.parametrize("script", ["embed", "annotate"])
def test_the_scripts_refuse_such_a_file_before_the_work(folder, scripts, classifier_path, capsys, script):
    path, output = folder / "cells.h5ad", folder / "out.h5ad"
    change(path, NOT_COPIED["obsm"])
    victim = (folder.parent / "victim.h5ad").read_bytes()
    words = ["--model", classifier_path, "--data_path", path, "--output_file", output]
    assert scripts[script]([str(word) for word in words]) == 2
    assert "leads to another file" in capsys.readouterr().err
    assert (folder.parent / "victim.h5ad").read_bytes() == victim
    assert not output.exists()


def test_a_pipe_as_input_is_refused_and_not_waited_for(folder):
    with pytest.raises(ScDMCError, match="pipe"):
        read_all(folder / "pipe.h5ad")


@pytest.mark.filterwarnings("ignore")
def test_attributes_and_types_may_be_anything(folder):
    path = folder / "cells.h5ad"
    content, generator = path.read_bytes(), random.Random(0)
    places = ["/", "X", "X/data", "X/indices", "X/indptr", "obs", "obs/_index", "obs/batch", "var", "var/_index"]
    values = ["x", b"\xff", -1, 10**12, np.nan, np.zeros(3), np.array(["a", "b"], dtype="S1"), h5py.Empty("f")]
    names = ["encoding-type", "encoding-version", "shape", "_index", "column-order"]
    n_refused = 0
    for place in places:
        for name in names:
            path.write_bytes(content)
            value = generator.choice(values)
            change(path, lambda f, place=place, name=name, value=value: f[place].attrs.__setitem__(name, value))
            n_refused += is_refused(path)
        for other in (np.arange(3), "text", None):
            if place == "/":
                continue
            path.write_bytes(content)
            change(path, lambda f, place=place, other=other: put(f, place, other))
            n_refused += is_refused(path)
    for _ in range(40):
        damaged = bytearray(content)
        for _ in range(generator.randint(1, 30)):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        path.write_bytes(bytes(damaged[: generator.choice([len(damaged), len(damaged) // 2])]))
        n_refused += is_refused(path)
    assert n_refused > 40


def put(file, place, other):
    del file[place]
    if other is None:
        file.create_group(place)
    else:
        file[place] = other


def is_refused(path):
    try:
        with open_counts(path) as counts:
            for _ in counts.blocks():
                pass
    except ScDMCError as error:
        return "\n" not in str(error)
    return False


# ---- zarr


@pytest.fixture
def store(whole, tmp_path):
    anndata.read_h5ad(whole).write_zarr(tmp_path / "cells.zarr")
    (tmp_path / "secret.txt").write_bytes(SECRET)
    return tmp_path / "cells.zarr"


@pytest.mark.parametrize("leads_to", ["secret.txt", "/etc/passwd", "folder"])
def test_a_link_out_of_a_store_is_refused(store, leads_to):
    (store.parent / "folder").mkdir()
    chunk = next(path for path in sorted((store / "obs").rglob("*")) if path.is_file() and path.suffix != ".json")
    chunk.unlink()
    chunk.symlink_to(store.parent / leads_to)
    with pytest.raises(ScDMCError, match="leads out of the store"):
        read_all(store)


def test_a_pipe_in_a_store_is_refused_and_not_waited_for(store):
    os.mkfifo(store / "X" / "pipe")
    with pytest.raises(ScDMCError, match="pipe or a device"):
        read_all(store)


def metadata_of(store, array):
    return next(path for name in ("zarr.json", ".zarray") if (path := store / array / name).exists())


@pytest.mark.parametrize("array", ["X/indptr", "X/data", "obs/_index", "obs/n"])
@pytest.mark.parametrize("size", [10**12, 10**18])
def test_a_store_that_claims_too_much_is_refused(store, array, size):
    path = metadata_of(store, array)
    path.write_text(json.dumps({**json.loads(path.read_text()), "shape": [size]}))
    start = time.process_time()
    with pytest.raises(ScDMCError, match=r"cells\.zarr"):
        read_all(store)
    assert time.process_time() - start < 2


@pytest.mark.filterwarnings("ignore")
def test_metadata_of_a_store_may_be_anything(store):
    generator = random.Random(0)
    n_refused = 0
    for array in ("X/data", "X/indptr", "obs/batch/codes", "."):
        names = ("zarr.json", ".zarray", ".zattrs", ".zgroup")
        for path in [store / array / name for name in names if (store / array / name).exists()]:
            text = path.read_text()
            content = json.loads(text)
            for name in content:
                for value in generator.sample([None, -1, 10**30, "x", [], {}, [-5], [10**20], 0], 2):
                    path.write_text(json.dumps({**content, name: value}))
                    n_refused += is_refused(store)
            for damage in ("[" * 100_000, "", "{}"):
                path.write_text(damage)
                n_refused += is_refused(store)
            path.write_text(text)
    assert not is_refused(store)
    assert n_refused > 20


# ---- text of 10x


@pytest.fixture
def tenx(tmp_path):
    folder = tmp_path / "tenx"
    folder.mkdir()
    (folder / "barcodes.tsv").write_text("AAA-1\nCCC-1\n")
    (folder / "features.tsv").write_text("ENSG00000254647\tINS\tGene Expression\n")
    (folder / "matrix.mtx").write_text("%%MatrixMarket matrix coordinate integer general\n1 2 1\n1 1 5\n")
    return folder


def pack(folder, name, *parts):
    (folder / name).unlink()
    with gzip.open(folder / f"{name}.gz", "wb") as file:
        for part in parts:
            file.write(part)


@pytest.mark.parametrize(
    ("name", "parts", "says"),
    [
        ("barcodes.tsv", [b"A" * (3 << 20)], "a line is longer than 1,048,576 bytes"),
        ("features.tsv", [b"A" * (3 << 20)], "a line is longer than"),
        ("matrix.mtx", [b"%" * (3 << 20)], "a line is longer than"),
        ("matrix.mtx", [b"%%MatrixMarket matrix coordinate integer general\n1 2 1\n", b"1 1 5\n" * 500_000],
         "promises 1 entries, but there are more"),
        ("matrix.mtx", [b"%%MatrixMarket matrix coordinate integer general\n1 2 1\n", b" " * (3 << 20)],
         "a line is longer than"),
    ],
)  # fmt: skip
def test_text_that_unpacks_to_far_too_much_is_refused(tenx, name, parts, says):
    pack(tenx, name, *parts)
    with pytest.raises(ScDMCError, match=says):
        read_all(tenx)


def test_text_is_read_up_to_a_bound(tenx, monkeypatch):
    monkeypatch.setattr("scdmc.reading.mtx.MOST_BYTES", 8)
    with pytest.raises(ScDMCError, match=r"more text than"):
        read_all(tenx)


@pytest.mark.parametrize("damage", ["cut", "zeros"])
def test_a_damaged_file_in_a_folder_is_named_with_what_to_do(tmp_path, islets_path, load_script, capsys, damage):
    """Both files begin as HDF5 does; only who opens them sees what is wrong."""
    content = islets_path.read_bytes()
    broken = content[: len(content) // 2] if damage == "cut" else content[:1000] + bytes(8000) + content[9000:]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.h5ad").write_bytes(content)
    (tmp_path / "in" / "b.h5ad").write_bytes(broken)
    command = ["--data_path", tmp_path / "in", "--output_dir", tmp_path / "out", "--output_prefix", "x"]
    assert load_script("tokenizer/tokenizer_combine.py").main([str(word) for word in command]) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert str(tmp_path / "in" / "b.h5ad") in error
    assert error.endswith("; the file is damaged or incomplete: copy or download it again")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("*.parquet"))
