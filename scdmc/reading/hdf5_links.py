"""What an HDF5 file draws from elsewhere, and what it claims to hold: both are looked at before anything is read.

A file may hold links to other files, or values that lie in other files. A stranger's file must not have a reader copy
what it names, nor a writer change it.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from scdmc.errors import ScDMCError
from scdmc.files import is_special
from scdmc.reading.matrix_readers import reading
from scdmc.reading.sizes import require_stored

MAX_DEPTH = 100


COPY_IT = "make a file of its own of it: anndata.read_h5ad(FILE).write_h5ad(NEW)"


@contextmanager
def open_hdf5(path: Path, parts: Iterable[str] | None = None) -> Iterator[h5py.File]:
    """Open an HDF5 file to be read, after a look at where the parts that are read lie.

    Parameters
    ----------
    path
        The file.
    parts
        Names of what is read at the top of the file; all of it without them.

    Raises
    ------
    ScDMCError
        If a part leads out of the file's folder, to what is not there, or round in a circle, or if it claims values
        that the file cannot hold.
    OSError
        If it is no HDF5 file.
    """
    require_regular(path)
    with h5py.File(path, "r") as file:
        with reading(str(path)):
            _Walk(Path(path)).look_at(file, parts)
        yield file


def require_regular(path: Path) -> None:
    """Refuse a pipe or a device, which a reader would wait for; a path that is absent passes.

    Raises
    ------
    ScDMCError
        If it is neither file nor folder.
    """
    path = Path(path)
    if is_special(path):
        raise ScDMCError(f"{path} is a pipe or a device, and no file that can be read")


def require_own_content(path: Path) -> None:
    """Refuse to copy a file that draws anything from another file: the copy may lie elsewhere, or would change it.

    Raises
    ------
    ScDMCError
        Naming the first such place and where it leads.
    """
    require_regular(path)
    with reading(str(path)), h5py.File(path, "r") as file:
        for place in _places_elsewhere(file.id, path):
            raise refusal(path, place, "leads to another file, or keeps its values there")


def _places_elsewhere(root: h5py.h5g.GroupID, path: Path) -> Iterator[str]:
    """Names of links and datasets that draw from another file; by the calls of HDF5 itself, for there may be many."""
    seen: set[int] = set()
    waiting: list[tuple[h5py.h5g.GroupID, str, int]] = [(root, "", 1)]
    while waiting:
        group, way, depth = waiting.pop()
        for name in _members(group):
            place = f"{way}/{os.fsdecode(name)}"
            kind = group.links.get_info(name).type
            if kind != h5py.h5l.TYPE_HARD:
                if kind != h5py.h5l.TYPE_SOFT:
                    yield place
                continue
            information = h5py.h5o.get_info(group, name)
            if information.addr in seen:
                continue
            seen.add(information.addr)
            if information.type == h5py.h5o.TYPE_GROUP:
                if depth > MAX_DEPTH:
                    raise refusal(path, place, f"lies in more than {MAX_DEPTH} groups")
                waiting.append((h5py.h5g.open(group, name), place, depth + 1))
            elif information.type == h5py.h5o.TYPE_DATASET and _draws_from_files(h5py.h5d.open(group, name)):
                yield place


def _draws_from_files(dataset: h5py.h5d.DatasetID) -> bool:
    plan = dataset.get_create_plist()
    if plan.get_layout() != h5py.h5d.VIRTUAL:
        return plan.get_external_count() > 0
    return any(plan.get_virtual_filename(number) != "." for number in range(plan.get_virtual_count()))


class _Walk:
    """Looks at groups and datasets, each once; by the calls of HDF5 itself, for there may be many."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder = path.resolve().parent
        self.seen: set[tuple[int, int]] = set()

    def look_at(self, file: h5py.File, parts: Iterable[str] | None) -> None:
        """Look at parts of a file, and at all that lies below them."""
        top, chosen = file["/"].id, None if parts is None else {os.fsencode(part) for part in parts}
        members = [name for name in _members(top) if chosen is None or name in chosen]
        # (group, members that are not looked at yet, addresses on the way to it)
        waiting = [(top, members, (_address(top),))]
        while waiting:
            group, members, way = waiting.pop()
            for name in members:
                child = self._child(group, name)
                information = h5py.h5o.get_info(child)
                address = information.fileno, information.addr
                if address in way:
                    raise refusal(self.path, _joined(group, name), "leads back to what it is a part of")
                if address in self.seen:
                    continue
                self.seen.add(address)
                if len(way) > MAX_DEPTH:
                    raise refusal(self.path, _joined(group, name), f"lies in more than {MAX_DEPTH} groups")
                if information.type == h5py.h5o.TYPE_DATASET:
                    self._require_own_values(h5py.Dataset(child))
                elif information.type == h5py.h5o.TYPE_GROUP:
                    waiting.append((child, _members(child), (*way, address)))

    def _child(self, group: h5py.h5g.GroupID, name: bytes) -> h5py.h5g.GroupID | h5py.h5d.DatasetID:
        """What a link leads to, if that may be read."""
        if group.links.get_info(name).type != h5py.h5l.TYPE_HARD:
            return self._behind_link(h5py.Group(group), os.fsdecode(name))
        try:
            return h5py.h5o.open(group, name)
        except (KeyError, OSError, RuntimeError) as error:
            raise refusal(self.path, _joined(group, name), "is not there or cannot be opened") from error

    def _behind_link(self, group: h5py.Group, name: str) -> h5py.h5g.GroupID | h5py.h5d.DatasetID:
        where = _joined(group.id, os.fsencode(name))
        try:
            link = group.get(name, getlink=True)
        except TypeError as error:
            raise refusal(self.path, where, "is a link of an unknown kind") from error
        if isinstance(link, h5py.ExternalLink):
            self._require_near(where, "leads to", link.filename, _folder_of(group))
        try:
            return group[name].id
        except (KeyError, OSError, RuntimeError) as error:
            raise refusal(self.path, where, f"leads to {link.path}, which is not there or cannot be opened") from error

    def _require_near(self, where: str, how: str, name: str, folder: Path) -> Path:
        """The file that is meant, which must be a file in the folder of the file that is read."""
        target = Path(os.path.realpath(folder / name))
        if not target.is_relative_to(self.folder):
            raise refusal(self.path, where, f"{how} {name}, outside of the folder of the file")
        if not target.is_file():
            raise refusal(self.path, where, f"{how} {name}, and there is no such file")
        return target

    def _require_own_values(self, dataset: h5py.Dataset) -> None:
        plan = dataset.id.get_create_plist()
        if plan.get_external_count():
            names = sorted({os.fsdecode(name) for name, _, _ in dataset.external})
            raise refusal(self.path, dataset.name, f"keeps its values in another file, {names[0]}")
        if plan.get_layout() == h5py.h5d.VIRTUAL:
            self._require_sources(dataset)
        else:
            require_stored(dataset, self.path.name)

    def _require_sources(self, dataset: h5py.Dataset) -> None:
        """HDF5 takes the fill value where a source of a virtual dataset is not there: counts would be lost silently."""
        n_values = 0
        for source in dataset.virtual_sources():
            n_values += source.vspace.get_select_npoints()
            if source.file_name == ".":
                self._require_source(dataset, source, dataset.file)
                continue
            target = self._require_near(dataset.name, "has values in", source.file_name, _folder_of(dataset))
            try:
                with h5py.File(target, "r") as file:
                    self._require_source(dataset, source, file)
            except OSError as error:
                reason = f"has values in {source.file_name}, which is no HDF5 file"
                raise refusal(self.path, dataset.name, reason) from error
        if n_values < dataset.size:
            raise refusal(self.path, dataset.name, f"has {n_values:,} of its {dataset.size:,} values only")

    def _require_source(self, dataset: h5py.Dataset, source: "h5py._hl.vds.VDSmap", file: h5py.File) -> None:
        found = file.get(source.dset_name, getclass=True)
        name = f"{source.file_name}:{source.dset_name}"
        if found is not h5py.Dataset:
            raise refusal(self.path, dataset.name, f"has values in {name}, and there are none")
        origin = file[source.dset_name]
        is_whole = source.src_space.get_select_type() == h5py.h5s.SEL_ALL
        last = () if is_whole else source.src_space.get_select_bounds()[1]
        n_values = source.vspace.get_select_npoints()
        if n_values > origin.size or any(end >= size for end, size in zip(last, origin.shape, strict=False)):
            raise refusal(self.path, dataset.name, f"has values in {name}, which is shorter")
        if _address(origin.id) in self.seen:
            return
        self.seen.add(_address(origin.id))
        if origin.file.filename != file.filename:
            raise refusal(self.path, dataset.name, f"has values in {name}, which leads on to another file")
        self._require_own_values(origin)


def refusal(path: Path, where: str, why: str) -> ScDMCError:
    """The error for a part of a file that is not read or copied."""
    where = where if len(where) <= 80 else f"{where[:80]}..."
    return ScDMCError(f"{path}: {where} {why}; {COPY_IT}, if you trust it")


def _members(group: h5py.h5g.GroupID) -> list[bytes]:
    names: list[bytes] = []
    group.links.iterate(names.append)
    return names


def _joined(group: h5py.h5g.GroupID, name: bytes) -> str:
    return f"{os.fsdecode(h5py.h5i.get_name(group) or b'').rstrip('/')}/{os.fsdecode(name)}"


def _address(found: h5py.h5g.GroupID | h5py.h5d.DatasetID) -> tuple[int, int]:
    information = h5py.h5o.get_info(found)
    return information.fileno, information.addr


def _folder_of(found: "h5py.Group | h5py.Dataset") -> Path:
    """The folder of the file in which an object lies, which may have been reached by a link."""
    return Path(os.path.realpath(found.file.filename)).parent
