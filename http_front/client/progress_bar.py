"""Shows the progress of a job: a bar on a terminal, lines of text elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
)
from rich.text import Text

from broker.wire.job import JobState, Stage
from http_front.video.job_status import JobUpdate

# Short words, so that bar, step, pace and remaining time fit into 80 characters.
_STAGES = {
    Stage.ENCODE: "encoding",
    Stage.DENOISE: "denoising",
    Stage.DECODE: "decoding",
    Stage.SAVE: "saving",
}
_BAR_WIDTH = 20


class ProgressBar:
    """Use it with `with`, and call `show` with each change."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._pace = _Pace()
        self._last_phase = ""
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(_BAR_WIDTH),
            TaskProgressColumn(),
            TextColumn("{task.fields[detail]}"),
            _TimeLeft(),
            console=console,
            disable=not console.is_terminal or console.quiet,
        )
        self._task = self._progress.add_task("waiting", total=1.0, detail="", due_at=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Hide the bar while something else uses the terminal."""
        self._progress.stop()
        try:
            yield
        finally:
            self._progress.start()

    def show(self, update: JobUpdate) -> None:
        phase = _phase(update)
        detail = _detail(update, self._pace.step_s(update))
        left_s = None if update.status.is_terminal else update.eta_s
        self._progress.update(
            self._task,
            completed=update.progress,
            description=phase,
            detail=detail,
            due_at=None if left_s is None else self._progress.get_time() + left_s,
        )
        if not self._console.is_terminal and phase != self._last_phase:
            left = [] if left_s is None else [f"{_clock(left_s)} left"]
            rest = " · ".join(filter(None, [detail, *left]))
            self._console.print(f"{update.progress:4.0%} {phase} {rest}".rstrip())
        self._last_phase = phase


class _TimeLeft(ProgressColumn):
    """The remaining time; it keeps counting down between changes."""

    def render(self, task: Task) -> Text:
        due_at = task.fields["due_at"]
        if due_at is None:
            return Text()
        mark = "· " if task.fields["detail"] else ""
        return Text(f"{mark}{_clock(max(0.0, due_at - task.get_time()))} left")


class _Pace:
    """Measures the seconds per step from the times of the changes."""

    def __init__(self) -> None:
        self._stage: Stage | None = None
        self._first: tuple[int, float] | None = None
        self._last: tuple[int, float] = (0, 0.0)

    def step_s(self, update: JobUpdate) -> float | None:
        """Return the mean step time of the current stage; None before its second step."""
        if update.stage is not self._stage or update.step < self._last[0]:
            self._stage, self._first, self._last = update.stage, None, (0, 0.0)
        if update.step > self._last[0]:  # other changes come within a step
            self._last = (update.step, update.updated_at)
            self._first = self._first or self._last
        if self._first is None:
            return None
        num_steps = self._last[0] - self._first[0]
        return (self._last[1] - self._first[1]) / num_steps if num_steps > 0 else None


def _phase(update: JobUpdate) -> str:
    if update.status is JobState.IN_QUEUE:
        return "waiting"
    if update.status is JobState.IN_PROGRESS:
        return _STAGES.get(update.stage, "starting") if update.stage else "starting"
    return str(update.status.value).lower()


def _detail(update: JobUpdate, step_s: float | None) -> str:
    parts = []
    if update.queue_position is not None:
        parts.append(f"queue position {update.queue_position}")
    if update.num_steps > 1 and update.status is JobState.IN_PROGRESS:
        parts.append(f"step {update.step}/{update.num_steps}")
    if step_s is not None:
        parts.append(f"{step_s:.2f} s/step")
    if update.attempt > 1:
        parts.append(f"attempt {update.attempt}")
    return " · ".join(parts)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
