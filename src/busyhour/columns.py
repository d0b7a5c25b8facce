"""Operations and samples as columns: how a run of a million is read without an object for each row.

A Run may offer them (`Columnar`); of one that does not, they are made of its objects: `operations_of` and `samples_of`
take either. What they say is what `Run.operations` and `Run.samples` say, in the same order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from busyhour.model import Operation, Run

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]
Bools: TypeAlias = npt.NDArray[np.bool_]
Codes: TypeAlias = npt.NDArray[np.int32]
Picked: TypeAlias = "Bools | npt.NDArray[np.intp] | slice"

NEVER = int(np.iinfo(np.int64).min)
"""The instant of what is None: an end that never came."""


@dataclass(frozen=True, eq=False, slots=True)
class Words:
    """A column of words of which many are alike: the i-th is `words[codes[i]]`. Words may be there that none is."""

    codes: Codes
    words: Sequence[str]

    @classmethod
    def of(cls, column: Iterable[str]) -> Words:
        known: dict[str, int] = {}
        codes = np.fromiter((known.setdefault(word, len(known)) for word in column), dtype=np.int32)
        return cls(codes, list(known))

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, row: int) -> str:
        return self.words[int(self.codes[row])]

    def __iter__(self) -> Iterator[str]:
        return (self.words[code] for code in self.codes.tolist())

    def are(self, word: str) -> Bools:
        """Which of them are this word."""
        code = next((code for code, known in enumerate(self.words) if known == word), -1)
        return np.asarray(self.codes == code, dtype=np.bool_)

    def taken(self, rows: Picked) -> Words:
        return Words(self.codes[rows], self.words)

    def numbered(self) -> Words:
        """Only the words that occur, in the order in which they first do."""
        present, first, codes = np.unique(self.codes, return_index=True, return_inverse=True)
        order = np.argsort(first, kind="stable")
        places = np.empty(len(order), dtype=np.int32)
        places[order] = np.arange(len(order), dtype=np.int32)
        return Words(places[codes.reshape(-1)], [self.words[code] for code in present[order]])

    def counts(self) -> list[tuple[str, int]]:
        """The words that occur and how often, the commonest first, of equals the one that comes first."""
        own = self.numbered()
        counts = np.bincount(own.codes, minlength=len(own.words))
        return [(own.words[code], int(counts[code])) for code in np.argsort(-counts, kind="stable")]

    def first(self, word: str) -> int:
        """The row of the first that is this word. Raises ValueError where there is none."""
        rows = np.flatnonzero(self.are(word))
        if not len(rows):
            raise ValueError(f"{word!r} is not in the column")
        return int(rows[0])


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class OperationColumns:
    """The operations of one kind. `call` is the call that each belongs to, or is: its parent, or its id without one.

    What is None is `NEVER`. `instants` and `texts` are what was asked for of the details, by key: an integer (`NEVER`
    for anything else), and any other value as `str`, "" for none.
    """

    due_ns: Ints
    began_ns: Ints
    ended_ns: Ints
    outcome: Words
    call: Words
    who: Words
    phase: Words
    instants: Mapping[str, Ints] = field(default_factory=dict)
    texts: Mapping[str, Words] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.due_ns)

    @property
    def ended(self) -> Bools:
        return np.asarray(self.ended_ns != NEVER, dtype=np.bool_)

    @property
    def since_ns(self) -> Ints:
        """When each began; when it was due, where it did not."""
        return np.where(self.began_ns == NEVER, self.due_ns, self.began_ns)

    def taken(self, rows: Picked) -> OperationColumns:
        return replace(
            self,
            due_ns=self.due_ns[rows],
            began_ns=self.began_ns[rows],
            ended_ns=self.ended_ns[rows],
            outcome=self.outcome.taken(rows),
            call=self.call.taken(rows),
            who=self.who.taken(rows),
            phase=self.phase.taken(rows),
            instants={key: column[rows] for key, column in self.instants.items()},
            texts={key: column.taken(rows) for key, column in self.texts.items()},
        )


@dataclass(frozen=True, eq=False, slots=True)
class SampleColumns:
    """The samples of one source and name."""

    at_ns: Ints
    value: Floats
    count: Ints

    def __len__(self) -> int:
        return len(self.at_ns)

    def taken(self, rows: Picked) -> SampleColumns:
        return SampleColumns(self.at_ns[rows], self.value[rows], self.count[rows])


@runtime_checkable
class Columnar(Protocol):
    """A Run that can tell a whole column at once."""

    def operation_columns(
        self, kind: str, phase: str | None = None, *, instants: Sequence[str] = (), texts: Sequence[str] = ()
    ) -> OperationColumns: ...

    def sample_columns(self, source: str, name: str, phase: str | None = None) -> SampleColumns: ...


def operations_of(
    run: Run, kind: str, phase: str | None = None, *, instants: Sequence[str] = (), texts: Sequence[str] = ()
) -> OperationColumns:
    """What `run.operations(kind, phase)` says, as columns."""
    if isinstance(run, Columnar):
        return run.operation_columns(kind, phase, instants=instants, texts=texts)
    return columns_of(run.operations(kind, phase), instants=instants, texts=texts)


def samples_of(run: Run, source: str, name: str, phase: str | None = None) -> SampleColumns:
    """What `run.samples(source, name, phase)` says, as columns."""
    if isinstance(run, Columnar):
        return run.sample_columns(source, name, phase)
    samples = run.samples(source, name, phase)
    return SampleColumns(
        np.array([sample.at_ns for sample in samples], dtype=np.int64),
        np.array([sample.value for sample in samples], dtype=np.float64),
        np.array([sample.count for sample in samples], dtype=np.int64),
    )


def columns_of(
    operations: Sequence[Operation], *, instants: Sequence[str] = (), texts: Sequence[str] = ()
) -> OperationColumns:
    """Operations that are there already."""
    return OperationColumns(
        due_ns=np.array([one.due_ns for one in operations], dtype=np.int64),
        began_ns=_instants(one.began_ns for one in operations),
        ended_ns=_instants(one.ended_ns for one in operations),
        outcome=Words.of(one.outcome for one in operations),
        call=Words.of(one.parent or one.id for one in operations),
        who=Words.of(one.who for one in operations),
        phase=Words.of(one.phase for one in operations),
        instants={key: _instants(one.detail.get(key) for one in operations) for key in instants},
        texts={key: Words.of(str(one.detail.get(key) or "") for one in operations) for key in texts},
    )


def _instants(column: Iterable[object]) -> Ints:
    return np.fromiter((value if isinstance(value, int) else NEVER for value in column), dtype=np.int64)
