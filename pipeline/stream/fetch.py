"""Row groups for the workers: from the cache, from what was read ahead, or from the file."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.errors import LakestormError, RowGroupError
from pipeline.stores.reading import identity_of, is_remote, open_file
from pipeline.stream.block_format import Block
from pipeline.stream.cache import BlockCache, block_key
from pipeline.stream.decode import OpenFile, decode
from pipeline.stream.footers import Footer, FooterCache
from pipeline.stream.layout import ResolvedLayout
from pipeline.stream.plan import Item
from pipeline.stream.read_ahead import ReadAhead

# Requests to stores that are under way at once: they wait for the network, not for a core.
_READ_AHEAD_THREADS = 8
# Files that each worker keeps open.
_OPEN_FILES = 8


@dataclass(frozen=True, slots=True)
class RowGroupSource:
    """Where a row group is, and how errors name it."""

    file: str
    row_group: int

    def __str__(self) -> str:
        return f"{self.file}, row group {self.row_group}"


class SnapshotFiles:
    """What a stream reads, and where it keeps what it read.

    Args:
        footers: Of the files, in their order.
        layout: What is made of a row group.
        parsed: Where parsed footers are at hand.
        cache: Where decoded row groups are kept.
    """

    def __init__(
        self,
        footers: Sequence[Footer],
        layout: ResolvedLayout,
        parsed: FooterCache,
        cache: BlockCache | None,
    ) -> None:
        self.footers = footers
        self.layout = layout
        self.parsed = parsed
        self.cache = cache
        # The plan counts row groups through all files: where each file's begin.
        self._first = np.cumsum([0, *(len(footer.row_group_rows) for footer in footers)])
        self.row_counts = np.array([n for f in footers for n in f.row_group_rows], np.int64)
        """Rows of each row group, int64 [row groups]."""
        self._digest = layout.digest()
        self._identities = {footer.file: footer.identity for footer in footers}

    def source(self, row_group: int) -> RowGroupSource:
        """Returns where a row group is, by its number in the plan."""
        file = int(np.searchsorted(self._first, row_group, side="right")) - 1
        return RowGroupSource(self.footers[file].file, row_group - int(self._first[file]))

    def key(self, source: RowGroupSource, of: str = "block") -> str:
        """Returns the key under which something of a row group is cached."""
        identity = self._identities[source.file] or ""
        return block_key(source.file, identity, source.row_group, f"{of} {self._digest}")

    def open(self, file: str) -> OpenFile:
        """Opens a file of the snapshot.

        Raises:
            RowGroupError: It is not the file whose footer was read.
            OSError: It is gone, or its store fails again and again.
        """
        if not is_remote(file) and identity_of(file) != self._identities[file]:
            raise RowGroupError(
                file,
                f"{identity_of(file)} (size and time of change), but {self._identities[file]} "
                "when its footer was read",
                "Files of a snapshot must not change; open the stream again.",
            )
        footer = self.parsed.get(file)
        return OpenFile(open_file(file), footer)


class Ahead:
    """Begins to fetch remote row groups when their items are queued.

    Args:
        files: What is read.
    """

    def __init__(self, files: SnapshotFiles) -> None:
        self._files = files
        remote = any(is_remote(footer.file) for footer in files.footers)
        self._read_ahead = ReadAhead(_READ_AHEAD_THREADS) if remote else None
        self._begun: set[Item] = set()

    def begin(self, item: Item) -> None:
        """Starts to fetch what an item needs, unless it is at hand on this machine.

        Raises:
            RowGroupError: The file's footer cannot be read.
        """
        source, cache = self._files.source(item.row_group), self._files.cache
        if self._read_ahead is None or not is_remote(source.file):
            return
        if cache is not None and self._files.key(source) in cache:
            return
        try:
            footer = self._files.parsed.get(source.file)
        except LakestormError:
            raise
        except Exception as error:
            raise unreadable(source, error) from error
        columns = self._files.layout.columns
        self._begun.add(item)
        self._read_ahead.schedule(item, source.file, footer, source.row_group, columns)

    def take(self, item: Item) -> pa.NativeFile | None:
        """Returns what was fetched for an item, as a file that holds no more than that."""
        if self._read_ahead is None or item not in self._begun:
            return None
        self._begun.discard(item)
        return self._read_ahead.take(item)

    def discard(self, item: Item) -> None:
        """Forgets what was fetched for an item that needs it no more."""
        if self._read_ahead is not None and item in self._begun:
            self._begun.discard(item)
            self._read_ahead.discard(item)

    def close(self) -> None:
        """Cancels what is not fetched yet; no thread is left."""
        if self._read_ahead is not None:
            self._read_ahead.close()


class RowGroups:
    """One worker's way to row groups; it keeps its last few local files open.

    Args:
        files: What is read.
        ahead: What the stores are asked for already.
    """

    def __init__(self, files: SnapshotFiles, ahead: Ahead) -> None:
        self._files = files
        self._ahead = ahead
        self._open: OrderedDict[str, OpenFile] = OrderedDict()

    def source(self, item: Item) -> RowGroupSource:
        """Returns where an item's row group is."""
        return self._files.source(item.row_group)

    def block(self, item: Item) -> Block:
        """Returns an item's rows, decoded.

        Raises:
            RowGroupError: The row group is not what it was when the footers were read.
            NullValueError: A dense column holds a null.
            SchemaError: Lists are not of the length or shape that is asked for.
            OSError: The file is gone, or its store fails again and again.
            ArrowInvalid: A page is corrupt.
        """
        layout, cache = self._files.layout, self._files.cache
        if cache is None:
            return layout.rows(self.whole(item), item.start, item.stop)
        key = self._files.key(self.source(item))
        block = cache.get(key)
        if block is None:
            block = self.whole(item)
            cache.put(key, layout.stacked(block))
        else:
            self._ahead.discard(item)
        return layout.rows(block, item.start, item.stop)

    def whole(self, item: Item) -> Block:
        """Returns an item's row group, decoded; raises as `block` does."""
        source = self.source(item)
        fetched = self._ahead.take(item)
        if fetched is None:
            file = self._opened(source.file)
        else:
            file = OpenFile(fetched, self._files.parsed.get(source.file))
        if file.rows(source.row_group) < item.stop:
            raise RowGroupError(
                str(source),
                f"{file.rows(source.row_group)} rows, but {item.stop} when the footers were read",
                "Files of a snapshot must not change; open the stream again.",
            )
        return decode(file, source.row_group, self._files.layout, str(source))

    def close(self) -> None:
        """Closes the files that are still open."""
        while self._open:
            self._open.popitem()[1].close()

    def _opened(self, file: str) -> OpenFile:
        opened = self._open.pop(file, None) or self._files.open(file)
        self._open[file] = opened
        if len(self._open) > _OPEN_FILES:
            self._open.popitem(last=False)[1].close()
        return opened


def unreadable(source: RowGroupSource, error: Exception) -> RowGroupError:
    """Returns the error for a row group that cannot be read."""
    return RowGroupError(
        str(source),
        f"{type(error).__name__}: {error}",
        "Restore the file, or read a version of the table that does not have it.",
    )
