"""Finds jobs by what was submitted."""

from collections.abc import Iterable

from broker.wire.job import JobSpec

MAX_SEARCHED = 5_000
"""Jobs that one request goes through, so that a search does not delay others."""


def has_words(spec: JobSpec, job_id: str, words: Iterable[str]) -> bool:
    """Whether each word is in the prompts, the seed, the model's name or the id."""
    said = (spec.prompt, spec.negative_prompt or "", str(spec.seed), spec.model or "", job_id)
    text = "\n".join(said).lower()
    return all(word.lower() in text for word in words)
