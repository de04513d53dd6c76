"""What the sections of the check of a GPU compute with, and the rows that they yield."""

from dataclasses import dataclass

# What a row says beside its numbers.
CASE, NOT_MET, STEP = "case", "not met", "step"

Row = dict[str, object]


@dataclass(frozen=True)
class CheckSize:
    """What the sections compute with.

    Attributes
    ----------
    is_tiny
        On the CPU, with sizes that measure nothing; the code is the same.
    layouts
        Lengths of the cells of each layout whose attention is compared.
    head_dims, n_heads
        Of these comparisons.
    layers, hidden_size, intermediate_size, heads
        Of the models.
    length
        Tokens of a full cell.
    cells, steps
        Of a batch; timed steps of a run.
    many_cells
        Of a batch that needs gradient checkpointing.
    batches
        Full cells of a step whose memory is measured.
    blocks
        Full cells whose block mask is measured.
    embedded
        Cells that are embedded.
    workers
        Processes that make batches.
    vocab_size
        Of the models and the cells.
    dtypes
        In which attention is compared.
    """

    is_tiny: bool = False
    layouts: tuple[tuple[int, ...], ...] = ((1,), (17, 128, 300), (2048, 2048, 513), (2048,) * 48)
    head_dims: tuple[int, ...] = (64, 16, 24)
    n_heads: int = 4
    layers: int = 12
    hidden_size: int = 512
    intermediate_size: int = 1024
    heads: int = 8
    length: int = 2048
    cells: int = 24
    steps: int = 50
    many_cells: int = 96
    batches: tuple[int, ...] = (24, 48, 64)
    blocks: int = 192
    embedded: int = 500
    workers: tuple[int, ...] = (0, 1, 4, 8)
    vocab_size: int = 60_534
    dtypes: tuple[str, ...] = ("float32", "bfloat16")

    @property
    def device_type(self) -> str:
        """Where the check computes."""
        return "cpu" if self.is_tiny else "cuda"


FULL = CheckSize()
TINY = CheckSize(
    is_tiny=True, layouts=((5, 9, 33),), head_dims=(16,), n_heads=2, layers=1, hidden_size=32,
    intermediate_size=32, heads=2, length=24, cells=4, steps=2, many_cells=6, batches=(2,), blocks=8, embedded=6,
    workers=(0,), vocab_size=300, dtypes=("bfloat16",),
)  # fmt: skip


def judged(row: Row, **is_met: bool) -> Row:
    """A row with the names of the expectations that are not met."""
    missed = [name.replace("_", " ") for name, met in is_met.items() if not met]
    return row | ({NOT_MET: missed} if missed else {})
