"""The data sets of the paper and their files. Nothing heavy is imported here, so that ``--help`` is quick."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SourceFile:
    """One file of a source.

    Attributes
    ----------
    name
        What it is called in a folder of sources.
    url
        Where it can be downloaded.
    also
        Other names under which it may lie in a folder of sources, such as that of the unpacked file; patterns of
        :meth:`pathlib.Path.glob`.
    """

    name: str
    url: str
    also: tuple[str, ...] = ()


@dataclass(frozen=True)
class PaperSource:
    """Where a data set of the paper comes from.

    Attributes
    ----------
    title, citation, terms
        What it is, who made it, and under which terms it is given, as its page states them.
    page
        Where a person can download the files by hand.
    files
        All that are needed, if any of them lies in no other form in the folder.
    """

    title: str
    page: str
    files: tuple[SourceFile, ...]
    citation: str
    terms: str


TEN_X = "https://cf.10xgenomics.com/samples/cell-exp"
SCVI_DATA = "https://github.com/YosefLab/scVI-data/raw/master"
GEO = "https://ftp.ncbi.nlm.nih.gov/geo/series"
ATLAS = "https://www.ebi.ac.uk/gxa/sc/experiment/E-HCAD-35"
OF_TEN_X = "10x Genomics gives its data sets under CC BY 4.0"
OF_GEO = "GEO itself puts no restriction on use or distribution; the submitters may"


# Of the myeloid cells: what the evaluation of scGPT trains on and tests on (Cui et al. 2024).
MYELOID_QUERY = ("MYE", "OV-FTC", "ESCA")
MYELOID_CANCERS = ("UCEC", "PAAD", "THCA", "LYM", "KIDNEY", *MYELOID_QUERY)


CENSUS_RELEASE, CENSUS_CELLS = "2024-07-01", 2_000_000


def _ten_x_archive(version: str, name: str, *also: str) -> SourceFile:
    file = f"{name}_filtered_gene_bc_matrices.tar.gz"
    return SourceFile(file, f"{TEN_X}/{version}/{name}/{file}", also)


def _myeloid_files(cancer: str) -> tuple[SourceFile, SourceFile]:
    names = (f"GSE154763_{cancer}_normalized_expression.csv.gz", f"GSE154763_{cancer}_metadata.csv.gz")
    first, second = (SourceFile(name, f"{GEO}/GSE154nnn/GSE154763/suppl/{name}") for name in names)
    return first, second


ZHENG68K, PBMC10K, BMMC, IMMUNE, MS, MYELOID, CENSUS_2M = (
    "zheng68k", "pbmc10k", "bmmc", "immune", "ms", "myeloid", "census_2m"
)  # fmt: skip


SOURCES = {
    ZHENG68K: PaperSource(
        "68,579 blood cells of one donor, 11 types",
        "https://www.10xgenomics.com/datasets/fresh-68-k-pbm-cs-donor-a-1-standard-1-1-0",
        (
            _ten_x_archive("1.1.0", "fresh_68k_pbmc_donor_a", "filtered_matrices_mex"),
            SourceFile(
                "68k_pbmc_barcodes_annotation.tsv",
                "https://raw.githubusercontent.com/10XGenomics/single-cell-3prime-paper/master/pbmc68k_analysis/"
                "68k_pbmc_barcodes_annotation.tsv",
            ),
        ),
        "Zheng et al. 2017, Massively parallel digital transcriptional profiling of single cells, Nature "
        "Communications 8:14049, doi:10.1038/ncomms14049",
        OF_TEN_X,
    ),
    PBMC10K: PaperSource(
        "11,990 blood cells of two runs, the data set of scvi.data.pbmc_dataset()",
        "https://docs.scvi-tools.org/en/stable/api/reference/scvi.data.pbmc_dataset.html",
        (
            _ten_x_archive("2.1.0", "pbmc8k", "pbmc8k/filtered_gene_bc_matrices.tar.gz"),
            _ten_x_archive("2.1.0", "pbmc4k", "pbmc4k/filtered_gene_bc_matrices.tar.gz"),
            SourceFile("gene_info_pbmc.csv", f"{SCVI_DATA}/gene_info.csv", ("gene_info.csv",)),
            SourceFile("pbmc_metadata.pickle", f"{SCVI_DATA}/pbmc_metadata.pickle"),
        ),
        "10x Genomics, 8k and 4k PBMCs from a healthy donor; types of Lopez et al. 2018, Deep generative modeling for "
        "single-cell transcriptomics, Nature Methods 15:1053-1058, doi:10.1038/s41592-018-0229-2",
        f"{OF_TEN_X}; the repository of the types, YosefLab/scVI-data, names none",
    ),
    BMMC: PaperSource(
        "90,261 bone marrow cells of 12 donors and four sites (CITE-seq part)",
        "https://www.ncbi.nlm.nih.gov/geo/query/acc.cgi?acc=GSE194122",
        (
            SourceFile(
                "GSE194122_openproblems_neurips2021_cite_BMMC_processed.h5ad.gz",
                f"{GEO}/GSE194nnn/GSE194122/suppl/GSE194122_openproblems_neurips2021_cite_BMMC_processed.h5ad.gz",
                ("*cite_BMMC_processed.h5ad*", "*multiome_BMMC_processed.h5ad*"),
            ),
        ),
        "Luecken et al. 2021, A sandbox for prediction and integration of DNA, RNA, and proteins in single cells, "
        "NeurIPS Datasets and Benchmarks; GEO GSE194122",
        OF_GEO,
    ),
    IMMUNE: PaperSource(
        "33,506 immune cells of blood and bone marrow, ten batches",
        "https://doi.org/10.6084/m9.figshare.12420968",
        (SourceFile("Immune_ALL_human.h5ad", "https://figshare.com/ndownloader/files/25717328"),),
        "Luecken et al. 2022, Benchmarking atlas-level data integration in single-cell genomics, Nature Methods "
        "19:41-50, doi:10.1038/s41592-021-01336-8",
        "see the page of the data set on Figshare",
    ),
    MS: PaperSource(
        "nuclei of the brain, nine controls and twelve patients with multiple sclerosis",
        "https://www.ebi.ac.uk/gxa/sc/experiments/E-HCAD-35/downloads",
        (
            SourceFile(
                "E-HCAD-35-quantification-raw-files.zip",
                f"{ATLAS}/download/zip?fileType=quantification-raw&accessKey=",
                ("E-HCAD-35*counts.mtx", "E-HCAD-35*counts.mtx.gz"),
            ),
            SourceFile(
                "ExpDesign-E-HCAD-35.tsv",
                f"{ATLAS}/download?fileType=experiment-design&accessKey=",
                ("E-HCAD-35*design*.tsv",),
            ),
        ),
        "Schirmer et al. 2019, Neuronal vulnerability and multilineage diversity in multiple sclerosis, Nature "
        "573:75-82, doi:10.1038/s41586-019-1404-z; Single Cell Expression Atlas E-HCAD-35",
        "terms of use of EMBL-EBI: no restriction of its own; see the page of the experiment",
    ),
    MYELOID: PaperSource(
        "myeloid cells of tumours, a pair of files for each cancer",
        "https://www.ncbi.nlm.nih.gov/geo/query/acc.cgi?acc=GSE154763",
        tuple(file for cancer in MYELOID_CANCERS for file in _myeloid_files(cancer)),
        "Cheng et al. 2021, A pan-cancer single-cell transcriptional atlas of tumor infiltrating myeloid cells, Cell "
        "184:792-809, doi:10.1016/j.cell.2021.01.010; GEO GSE154763",
        OF_GEO,
    ),
    CENSUS_2M: PaperSource(
        f"{CENSUS_CELLS:,} human cells of the CELLxGENE Census {CENSUS_RELEASE}, tokenized as they are read",
        "https://cellxgene.cziscience.com",
        (),
        "CZI Cell Science Program 2023, CZ CELLxGENE Discover, doi:10.1101/2023.10.30.563174",
        "CC BY 4.0",
    ),
}


@dataclass(frozen=True)
class ReadingOptions:
    """What is done with values that are no counts.

    Attributes
    ----------
    allow_normalized
        Keep them, and say so in the file.
    """

    allow_normalized: bool = False
