"""Which columns of the files are converted, and their names."""

from __future__ import annotations

import csv
import io
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from mpigmm.data.conversion.base import Columns, InputFile
from mpigmm.data.conversion.csv_text import decimal_remedy
from mpigmm.data.row_files import MOST_NAMES, check_differ, names_text
from mpigmm.errors import ConfigError, DataError, counted, shown


@dataclass(frozen=True)
class Selection:
    """The columns of the output.

    Attributes
    ----------
    numbers : tuple of (tuple of int)
        For each file, the numbers of its columns.
    names : tuple of str or None
        None where the files have none.
    """

    numbers: tuple[tuple[int, ...], ...]
    names: tuple[str, ...] | None


def select(files: Sequence[InputFile], wanted: str | None) -> Selection:
    """The columns with these names or numbers, separated by commas, or all. Raises `DataError` and `ConfigError`.

    The columns of other files are found by their names or, if files have no names, by their numbers.
    """
    first = files[0].columns
    check_alike(files, are_chosen=wanted is not None)
    chosen, names = (range(first.count), first.names) if wanted is None else find_all(files[0], listed(wanted))
    check_names(files[0].path, chosen, names)
    numbers = tuple(numbers_in(each, files[0], chosen, names) for each in files)
    for each, columns in zip(files, numbers, strict=True):
        check_numbers(each, columns)
    return Selection(numbers, names)


def check_alike(files: Sequence[InputFile], *, are_chosen: bool) -> None:
    """Raise `DataError` where files have other columns than the first; not if both have names and columns are chosen,
    since then only these need be the same."""
    first, remedy = files[0], "convert files of other columns separately"
    for each in files[1:]:
        place, other = shown(each.path), shown(first.path)
        names, expected = Counter(each.columns.names or ()), Counter(first.columns.names or ())
        if are_chosen and names and expected:
            continue
        if names and expected and names != expected:
            more, less = names_text(list(names - expected)), names_text(list(expected - names))
            more, less = more and f" has {more}, which {other} has not", less and f" lacks {less}, which {other} has"
            raise DataError(
                f"{place}{more}{' and' * bool(more and less)}{less}; {remedy}, rename them, or choose some by --columns"
            )
        if each.columns.count != first.columns.count:
            raise DataError(
                f"{place} has {counted(each.columns.count, 'column')}, but {other} has {first.columns.count}; {remedy}"
            )


def listed(wanted: str) -> list[str]:
    """The names or numbers in a text."""
    words = [word.strip() for word in next(csv.reader([wanted]), [])]
    if not all(words) or not words:
        raise ConfigError(f"--columns {wanted!r}: names or numbers are needed, separated by commas, such as a,b or 0,2")
    return words


def find_all(file: InputFile, words: Sequence[str]) -> tuple[Sequence[int], tuple[str, ...] | None]:
    """The numbers of columns, and their names in the output, if they have any. Raises `ConfigError`."""
    chosen = [find(file, word) for word in words]
    return chosen, file.columns.names and tuple(map(file.columns.name_of, words, chosen))


def find(file: InputFile, word: str) -> int:
    """The number of a column by its name or number. Raises `ConfigError`."""
    columns = file.columns
    named = [i for i, name in enumerate(columns.names or ()) if name == word]
    if len(named) > 1:
        raise ConfigError(
            f"--columns: {shown(word)!r} stands for several columns of {shown(file.path)}: numbers "
            f"{names_text([*map(str, named)])}; give a number"
        )
    if named or word in columns.others:
        return named[0] if named else columns.others[word]
    if word.isdecimal() and int(word) < columns.count:
        return int(word)
    known = names_text(columns.names, word) if columns.names else f"0 to {columns.count - 1}"
    raise ConfigError(f"--columns: {shown(file.path)} has no column {shown(word)!r}; it has {known}")


def check_names(path: str, chosen: Sequence[int], names: Sequence[str] | None) -> None:
    """Raise an error where a column is chosen twice, or a name stands for two columns."""
    check_differ(chosen, "--columns")
    twice = [name for name, count in Counter(names or ()).items() if count > 1]
    if twice:
        raise DataError(
            f"{shown(path)} has several columns named {names_text(twice)}; rename them, or choose others by "
            "their numbers with --columns"
        )


def numbers_in(
    file: InputFile, first: InputFile, chosen: Sequence[int], names: Sequence[str] | None
) -> tuple[int, ...]:
    """The columns of a file that are those chosen in the first one, with their names. Raises `ConfigError`."""
    own, expected = file.columns.names, first.columns.names
    if (own == expected and file.columns.others == first.columns.others) or own is None or names is None:
        return tuple(chosen)
    return tuple(find(file, name) for name in names)


def check_numbers(file: InputFile, numbers: Sequence[int]) -> None:
    """Raise `DataError` where a chosen column does not hold numbers."""
    columns = file.columns
    texts = [column for column in numbers if column in columns.texts]
    if not texts:
        return
    value = columns.texts[texts[0]]
    others = [column for column in range(columns.count) if column not in columns.texts]
    remedy = decimal_remedy(value) or choice(columns, others)
    raise DataError(
        f"{shown(file.path)} has text in {columns.label(texts[0])}, from line {columns.first_line} on, such as "
        f"{shown(value[:40])!r}; {remedy}"
    )


def choice(columns: Columns, numbers: Sequence[int]) -> str:
    """How to choose columns, of which there may be none."""
    if not numbers:
        return "no column holds numbers"
    line = io.StringIO()
    csv.writer(line).writerow([i if columns.names is None else columns.names[i] for i in numbers[:MOST_NAMES]])
    more = f" (and {len(numbers) - MOST_NAMES:,} more)" * (len(numbers) > MOST_NAMES)
    return f"choose the columns of numbers: --columns {shlex.quote(shown(line.getvalue().strip()))}{more}"
