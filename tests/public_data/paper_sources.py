"""Small made-up files in the formats of the paper's sources; each function returns the counts that it wrote."""

import gzip
import io
import pickle
import tarfile
import zipfile

import anndata
import h5py
import numpy as np
import pandas as pd
import scipy.sparse

from scdmc.genes.ids import load_symbols

N_GENES, PER_TYPE = 60, 18
TYPES = ("CD14 monocyte", "B cell", "NK cell")
CANCERS = ("UCEC", "PAAD", "MYE")


def genes(n_genes=N_GENES):
    """Ensembl ids and symbols of real genes."""
    found = {}
    for symbol, gene_id in load_symbols().items():
        found.setdefault(gene_id, symbol)
        if len(found) == n_genes:
            return list(found), list(found.values())
    raise AssertionError("there are fewer genes")


def made_up(seed, n_batches=2, types=TYPES, n_genes=N_GENES, per_type=PER_TYPE):
    """Counts of cells whose types and batches differ: (n_cells, n_genes), types, batch numbers."""
    generator = np.random.default_rng(seed)
    # Types are alike in every file; batches are shifted a little.
    of_types = np.random.default_rng(7).gamma(0.6, 3, (len(types), n_genes)) + 0.2
    labels = np.repeat(np.arange(len(types)), per_type)
    batches = np.arange(len(labels)) % n_batches
    shift = np.random.default_rng(8).gamma(8, 1 / 8, (n_batches, n_genes))
    counts = generator.poisson(of_types[labels] * shift[batches])
    counts[:, 0] += 1  # no cell is empty
    return counts.astype(np.int64), np.array(types, dtype=object)[labels], batches


def mtx(counts, head="%%MatrixMarket matrix coordinate integer general"):
    """Genes x cells as Matrix Market text."""
    cells, of_genes = np.nonzero(counts)
    lines = [f"{gene + 1} {cell + 1} {counts[cell, gene]:g}" for cell, gene in zip(cells, of_genes, strict=True)]
    return "\n".join([head, "%", f"{counts.shape[1]} {counts.shape[0]} {len(lines)}", *lines]) + "\n"


def barcodes(n_cells, seed):
    letters = np.random.default_rng(seed).choice(list("ACGT"), (n_cells, 16))
    return ["".join(row) + "-1" for row in letters]


def write_tar(path, texts):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, text in texts.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))


def ten_x_texts(counts, names, folder):
    gene_table = "".join(f"{gene_id}\t{symbol}\n" for gene_id, symbol in zip(*genes(counts.shape[1]), strict=True))
    return {
        f"{folder}/genes.tsv": gene_table,
        f"{folder}/barcodes.tsv": "".join(f"{name}\n" for name in names),
        f"{folder}/matrix.mtx": mtx(counts),
    }


def write_zheng68k(folder, per_type=PER_TYPE, **changes):
    counts, types, _ = made_up(1, per_type=per_type)
    names = barcodes(len(counts), 1)
    texts = ten_x_texts(counts, names, "filtered_matrices_mex/hg19")
    write_tar(folder / "fresh_68k_pbmc_donor_a_filtered_gene_bc_matrices.tar.gz", texts)
    table = pd.DataFrame({"TSNE.1": 0.5, "TSNE.2": -1.5, "barcodes": names, "celltype": types})
    order = np.random.default_rng(0).permutation(len(table))
    table = table.iloc[order].rename(columns=changes)
    table.to_csv(folder / "68k_pbmc_barcodes_annotation.tsv", sep="\t", index=False)
    return counts


def write_pbmc10k(folder, per_type=PER_TYPE, is_old=False, **changes):
    ids, symbols = genes()
    counts, types, batches = made_up(2, types=(*TYPES, "Other"), per_type=per_type)
    names = np.array(barcodes(len(counts), 2))
    names[1] = names[0]  # a barcode of both runs
    for number, run in enumerate(("pbmc8k", "pbmc4k")):
        texts = ten_x_texts(counts[batches == number], names[batches == number], "filtered_gene_bc_matrices/GRCh38")
        write_tar(folder / f"{run}_filtered_gene_bc_matrices.tar.gz", texts)
    table = pd.DataFrame({"ENSG": [*ids[5:50], "ENSG00000999999"], "GS": [*symbols[5:50], "nowhere"]})
    table.to_csv(folder / "gene_info_pbmc.csv")
    order = np.random.default_rng(3).permutation(len(counts))
    listed = [*names[order].tolist(), "ACGTACGTACGTACGT-11"]
    clusters, list_clusters = pd.factorize(types[order], sort=True)
    in_second = [*batches[order], 1]
    metadata = {
        "design": pd.DataFrame({"(Intercept)": 1, "batchpbmc4k": in_second}, index=np.arange(1, len(listed) + 1) * 2),
        "barcodes": pd.DataFrame({"Unnamed: 0": np.arange(len(listed))}, index=pd.Index(listed, name="x")),
        "clusters": np.append(clusters, 0),
        "list_clusters": np.array([str(name) for name in list_clusters], dtype=object),
    }
    content = pickle.dumps(metadata | changes, protocol=2)
    if is_old:  # names of classes, as pandas and numpy had them in 2018
        for new, old in (
            (b"cpandas.core.internals.managers\n", b"cpandas.core.internals\n"),
            (b"cpandas.core.indexes.base\nIndex\n", b"cpandas.core.indexes.numeric\nInt64Index\n"),
            (b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"),
        ):
            assert new in content
            content = content.replace(new, old)
    (folder / "pbmc_metadata.pickle").write_bytes(content)
    return counts[order][:, 5:50]


def write_bmmc(folder, per_type=PER_TYPE, modality="cite", **obs):
    counts, types, batches = made_up(3, n_batches=3, per_type=per_type)
    ids, symbols = genes()
    other = "ADT" if modality == "cite" else "ATAC"
    both = np.hstack([counts, np.full((len(counts), 4), 9)])
    var = pd.DataFrame(
        {"feature_types": ["GEX"] * N_GENES + [other] * 4, "gene_id": [*ids, *[f"other-{n}" for n in range(4)]]},
        index=[*symbols, *[f"other-{n}" for n in range(4)]],
    )
    names = [f"{name}-{batch}" for name, batch in zip(barcodes(len(counts), 3), batches, strict=True)]
    batch = np.array(["s1d1", "s1d2", "s2d1"])[batches]
    table = pd.DataFrame({"cell_type": types, "batch": batch, "DonorID": batches + 10_000}, index=names)
    for name, value in obs.items():
        table = table.drop(columns=name) if value is None else table.assign(**{name: value})
    adata = anndata.AnnData(np.log1p(both.astype(np.float32)), obs=table, var=var)
    adata.layers["counts"] = scipy.sparse.csr_matrix(both.astype(np.float32))
    path = folder / f"GSE194122_openproblems_neurips2021_{modality}_BMMC_processed.h5ad"
    adata.write_h5ad(path)
    with gzip.open(f"{path}.gz", "wb", compresslevel=1) as file:
        file.write(path.read_bytes())
    path.unlink()
    return counts


def write_immune(folder, per_type=PER_TYPE, odd=("Villani",), is_old=False):
    counts, types, batches = made_up(4, n_batches=3, per_type=per_type)
    batch = np.array(["10X", "Oetjen_A", "Villani"])[batches]
    values = counts.astype(np.float32)
    values[np.isin(batch, odd)] *= 1.37  # in one batch values by transcript length
    obs = pd.DataFrame(
        {"batch": batch, "final_annotation": types, "tissue": "PBMCs", "sample_ID": batches},
        index=[f"cell-{number}" for number in range(len(counts))],
    )
    adata = anndata.AnnData(np.log1p(values), obs=obs, var=pd.DataFrame(index=genes()[1]))
    adata.layers["counts"] = values
    adata.write_h5ad(folder / "Immune_ALL_human.h5ad")
    if is_old:
        make_old(folder / "Immune_ALL_human.h5ad", ("batch", "final_annotation", "tissue"))
    return counts[~np.isin(batch, odd)]


def make_old(path, categories):
    """Write an ``.h5ad`` as AnnData 0.7 did: no word on what a layer is, categories beside their columns."""
    with h5py.File(path, "a") as file:
        for name in ("layers/counts", "layers", "/"):
            for attribute in list(file[name].attrs):
                del file[name].attrs[attribute]
        obs, texts = file["obs"], h5py.string_dtype()
        beside = obs.create_group("__categories")
        for name in categories:
            codes, values = obs[name]["codes"][()], obs[name]["categories"][()]
            del obs[name]
            obs.create_dataset(name, data=codes)
            beside.create_dataset(name, data=values, dtype=texts)
            obs[name].attrs["categories"] = beside[name].ref
        obs.attrs["encoding-version"] = "0.1.0"


def write_ms(folder, per_type=PER_TYPE, fractions=0.0, more_of_design=0, **changes):
    counts, types, donors = made_up(5, n_batches=4, types=(*TYPES, "T cell"), per_type=per_type)
    is_patient = donors >= 2
    types = np.where((types == "T cell") & ~is_patient, "B cell", types)
    names = [f"SAMN0-{name}" for name in barcodes(len(counts), 5)]
    values = counts.astype(float)
    values[np.random.default_rng(5).random(values.shape) < fractions] += 0.3
    ids = genes()[0]
    prefix = "E-HCAD-35.aggregated_filtered_counts.mtx"
    with zipfile.ZipFile(folder / "E-HCAD-35-quantification-raw-files.zip", "w") as archive:
        archive.writestr(prefix, mtx(values, "%%MatrixMarket matrix coordinate real general"))
        archive.writestr(f"{prefix}_rows", "".join(f"{gene}\t{gene}\n" for gene in ids))
        archive.writestr(f"{prefix}_cols", "".join(f"{name}\t{name}\n" for name in names))
    disease = np.where(is_patient, "multiple sclerosis", "normal")
    table = pd.DataFrame({
        "Assay": [*names, *[f"SAMN9-{n}" for n in range(more_of_design)]],
        "Sample Characteristic[individual]": [*[f"C{n}" for n in donors], *["C0"] * more_of_design],
        "Sample Characteristic[organism part]": "prefrontal cortex",
        "Factor Value[disease]": [*disease, *["normal"] * more_of_design],
        "Factor Value[inferred cell type - authors labels]": [*types, *["B cell"] * more_of_design],
    })  # fmt: skip
    table = table.rename(columns=changes)
    table.to_csv(folder / "ExpDesign-E-HCAD-35.tsv", sep="\t", index=False)
    return counts, is_patient, types


def write_myeloid(folder, per_type=PER_TYPE, form="log", cancers=CANCERS, **changes):
    """``form``: log, linear, counts, or scaled by gene, from which no counts can be had."""
    every = []
    for number, cancer in enumerate(cancers):
        counts, types, donors = made_up(6 + number, per_type=per_type)
        counts = counts[:, : N_GENES - number]  # each table lacks other genes
        every.append(counts)
        scale = 1e4 / counts.sum(axis=1, keepdims=True)
        values = {"counts": counts, "linear": counts * scale, "log": np.log1p(counts * scale)}.get(form)
        values = counts * np.linspace(1, 2, counts.shape[1]) if values is None else values
        names = [f"{name}-{cancer}" for name in barcodes(len(counts), number)]
        table = pd.DataFrame(values, columns=genes()[1][: counts.shape[1]], index=pd.Index(names, name="index"))
        stem = folder / f"GSE154763_{cancer}"
        table.to_csv(f"{stem}_normalized_expression.csv.gz", float_format="%.8g")
        metadata = pd.DataFrame({
            "index": names, "patient": [f"P{n}" for n in donors], "library_id": [f"L{n}" for n in donors],
            "tissue": "T",
            "MajorCluster": [f"M{number:02d}_{name.replace(' ', '_')}" for name in types],
        })  # fmt: skip
        order = np.random.default_rng(0).permutation(len(metadata))
        metadata.iloc[order].rename(columns=changes).to_csv(f"{stem}_metadata.csv.gz", index=False)
    return every


WRITERS = {
    "zheng68k": write_zheng68k, "pbmc10k": write_pbmc10k, "bmmc": write_bmmc, "immune": write_immune, "ms": write_ms,
    "myeloid": write_myeloid,
}  # fmt: skip
