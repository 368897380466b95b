"""What a strategy is: how prior and data are combined, as pure steps on a small state.

The loop exists once, in `solve`. It calls ``bind`` once per solve, ``init`` and ``step`` for every chunk of rows. A
row is sample k of item b; everything a strategy computes for a row depends on that row alone unless it says ``couples =
"samples"``.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Protocol, Self, final

from torch import Tensor

from invsolve.core.fingerprint import fingerprint
from invsolve.core.ownership import Owner
from invsolve.core.random import DrawLike
from invsolve.core.torch_state import Defined
from invsolve.errors import UnsupportedError, invalid_type
from invsolve.gaussian.marginals import Moments
from invsolve.operators.base import BlackBox
from invsolve.priors.base import Prior
from invsolve.problem import Problem

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # in `typing` from Python 3.13 on; at runtime defaults are not needed

    StateT = TypeVar("StateT", default=Any)
    BoundT = TypeVar("BoundT", default=Any)
else:
    from typing import TypeVar

    StateT, BoundT = TypeVar("StateT"), TypeVar("BoundT")


def itself(x: Tensor) -> Tensor:
    """The signal, of which mean and std are asked."""
    return x


Info = Mapping[str, Tensor]  # what is only looked at, each (rows,): `strategies.diagnostics.Diagnostics`, or yours


class Bound(Protocol):
    """What `Strategy.bind` prepared: computed once for all items, indexed for every chunk of rows."""

    def take(self, index: Tensor) -> Self:
        """For the rows ``index`` (the item of every row)."""
        ...


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Run(Generic[BoundT]):
    """The rows that a strategy works on; a row is sample k of item b.

    Parameters
    ----------
    problem : Problem
        Operator, data and noise, with one item for each row.
    prior : Prior
        The prior, shared by all rows.
    draws : DrawLike
        The keyed random numbers of the rows: a row draws the same in any chunk.
    bound : Bound or None
        What `Strategy.bind` prepared, for these rows; None where it prepared nothing. ``Run[X]`` says that it is an X.
    reported : callable
        Takes signals ``(n, *shape)`` to what the caller asked about: x of a prior of ``x = f(u)``, else the signal.
        `Strategy.moments` are of it.
    """

    problem: Problem
    prior: Prior
    draws: DrawLike
    bound: BoundT = None  # type: ignore[assignment]  # where nothing was bound its type is None
    reported: Callable[[Tensor], Tensor] = itself

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.problem.data)

    def normal(self, step: int, index: int = 0) -> Tensor:
        """White standard normal values ``(rows, *shape)``: draw ``index`` of step ``step`` (-1: before the first)."""
        return self.draws.normal(self.problem.shape, self.problem.signal_dtype, step=step + 1, index=index)

    def noise(self, step: int, index: int = 0) -> Tensor:
        """Diffusion noise of unit level, ``C^(1/2) z`` ``(rows, *shape)``; arguments as in `normal`."""
        return self.prior.noise(self.normal(step, index))


class Strategy(Defined, Owner, abc.ABC, Generic[StateT, BoundT]):
    """Frozen options plus ``init`` and ``step``; nothing is kept on ``self``.

    Generic in the state of its rows and in what `bind` prepares, ``Strategy[State, Bound]``; leave out both or
    neither, and write ``Strategy[State, None]`` without a `bind`.

    A subclass is a frozen dataclass that gives `init` and `step` and the number of steps; everything else has a
    default.

    Attributes
    ----------
    num_steps : int
        How often `step` is called, unless `finished` says earlier that nothing is left to do.
    couples : {"nothing", "samples"}
        "samples": a sample depends on the other samples of its item, which then stay in one chunk. Samples never depend
        on other items. "nothing" unless overridden.
    gives_evidence : bool
        Whether the last info holds "log_evidence" and "log_evidence_se". False unless overridden.
    ahead : float
        How much of a budget must be left for another step: what that step and an answer by `stopped` after it take, in
        steps like the last one. 0 unless overridden: where steps are short.
    note : str
        What a reader of the samples must know: a sentence that goes into ``Result.why``.

    Notes
    -----
    A state is a frozen dataclass of tensors with rows first; nested dataclasses and tuples of tensors are fine. Its
    structure must not change from step to step, so that it can be saved and restored.
    """

    couples: ClassVar[Literal["nothing", "samples"]] = "nothing"  # "samples": all samples of an item stay in one chunk
    gives_evidence: ClassVar[bool] = False  # the last info holds "log_evidence" and "log_evidence_se"
    ahead: ClassVar[float] = 0.0  # what one more step and `stopped` take, in the time of the last step
    note: ClassVar[str] = ""  # what who reads the samples must know; a sentence that goes into `Result.why`
    num_steps: int  # how often `step` is called

    @abc.abstractmethod
    def init(self, run: Run[BoundT]) -> StateT:
        """The first state."""

    @abc.abstractmethod
    def step(self, run: Run[BoundT], state: StateT, i: int) -> tuple[StateT, Info]:
        """The state after step ``i`` (0, 1, ...), and the info: `Diagnostics`, or a mapping of names to ``(rows,)``."""

    def finished(self, run: Run[BoundT], state: StateT) -> bool:
        """True once further steps would change nothing: `num_steps` is then a limit. Asked after every step."""
        return False

    def stopped(self, run: Run[BoundT], state: StateT) -> tuple[StateT, Info] | None:
        """The state and info to answer with if no further step is taken; None: there is no answer before the last."""
        return None

    def fewer(self, run: Run[BoundT], state: StateT, share: float) -> tuple[Strategy, StateT] | None:
        """The strategy and the state with about a share of the ensemble, to go on from; None where that cannot be.

        The strategy differs from this one in options that are numbers.
        """
        return None

    def share(self, run: Run[BoundT], state: StateT, i: int) -> float:
        """How much of the work is done after step ``i``, about, from 0 to 1: what meters show."""
        return (i + 1) / self.num_steps

    def samples(self, run: Run[BoundT], state: StateT) -> Tensor:
        """The signals of a state, ``(rows, *shape)``: its field ``x`` unless overridden."""
        x = getattr(state, "x", None)
        if not isinstance(x, Tensor):
            raise invalid_type(self.name, "state.x", "a tensor (rows, *shape), or `samples` overridden", x)
        return x

    def ensemble(self, run: Run[BoundT], state: StateT, count: int) -> Tensor | None:
        """So many members of the ensemble of every item, or as many as there are, ``(items, members, *shape)``.

        They are draws as the samples are, but independent of how many samples were asked for. None unless overridden.
        """
        return None

    def power(self, run: Run[BoundT], state: StateT) -> float:
        """The power of the likelihood that the item furthest from it has reached: below 1 where chains are tempered."""
        return 1.0

    def log_weights(self, run: Run[BoundT], state: StateT) -> Tensor | None:
        """Unnormalised log weights of the rows, (rows,), or None where all count the same."""
        return None

    def moments(self, run: Run[BoundT], state: StateT) -> Moments | None:
        """Mean and std of every item, ``(items, *shape)`` of what is `Run.reported`, of all that was drawn; or None.

        Of strategies that ``couples = "samples"`` and draw more than they have rows: the result's mean and std. NaN for
        items of which the rows are all there is. Asked once, at the end.
        """
        return None

    @property
    def weighs(self) -> bool:
        """Whether rows have weights (`log_weights`), so that one alone is no draw."""
        return type(self).log_weights is not Strategy.log_weights

    def bind(self, problem: Problem, prior: Prior) -> BoundT | None:
        """What can be computed once for all rows: factorisations, grids. Must not mix items."""
        return None

    def settled(self, problem: Problem, prior: Prior) -> Strategy:
        """The options with what was left to the problem decided; itself unless overridden. `solve` asks once."""
        return self

    def missing(self, problem: Problem, prior: Prior) -> str:
        """What the operator, noise or prior lacks for this strategy, as a clause; '' if nothing."""
        return ""

    @property
    def name(self) -> str:
        """What results and messages call the strategy: the name of its class unless overridden."""
        return type(self).__name__

    def fingerprint(self) -> str:
        """A short hash of the options: equal options, equal text, in any process."""
        return fingerprint(self)


def needs_derivative(problem: Problem) -> str:
    """What a strategy that differentiates the likelihood lacks, as a clause; '' if nothing.

    Noise of any distribution is taken by its Gaussian at D.
    """
    if isinstance(problem.operator, BlackBox):
        return f"an operator with a derivative ({type(problem.operator).__name__} is a black box)"
    return ""


def check_together(owner: str, index: Tensor, batch: int) -> None:
    """Raise unless the rows ``index`` hold all samples of every item: what memory did not hold was split."""
    if len(index) % batch or bool((index.view(-1, batch) != index[:batch]).any()):
        raise UnsupportedError(
            f"{owner}: the samples of an item must run together, but memory does not hold them. Ask for fewer samples, "
            "or fewer items."
        )
