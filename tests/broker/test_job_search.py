"""The search through jobs."""

from broker.history import History
from broker.job_search import MAX_SEARCHED, has_words
from broker.wire.job import JobSpec
from broker.wire.job_view import JobView
from broker.wire.requests import ListJobs

SPEC = JobSpec(prompt="Ein Schwan schwimmt", negative_prompt="blurry", seed=4711, model="wan")


def test_each_word_is_found_in_the_prompts_the_seed_the_model_and_the_id() -> None:
    for words in (("SCHWAN", "4711"), ("blur",), ("wan", "0a0a"), ()):
        assert has_words(SPEC, "0a" * 16, words), words
    assert not has_words(SPEC, "0a" * 16, ("schwan", "boat"))


def test_a_search_goes_through_a_limited_number_of_jobs() -> None:
    """Otherwise the search of one client delays all others."""
    ids = [f"{number:032x}" for number in range(MAX_SEARCHED + 2)]
    history = History(JobView(job_id=job_id, created_at=0.0, updated_at=0.0) for job_id in ids)
    asked: list[str] = []

    def is_wanted(view: JobView) -> bool:
        asked.append(view.job_id)
        return view.job_id == ids[0]

    page = history.page(ListJobs(words=("x",)), 100, is_wanted)
    assert (page.jobs, page.has_more, len(asked)) == ([], False, MAX_SEARCHED)
    page = history.page(ListJobs(words=("x",), after=ids[1]), 100, is_wanted)
    assert [view.job_id for view in page.jobs] == ids[:1]
    history.page(ListJobs(), 100, is_wanted)
    assert len(asked) == MAX_SEARCHED + 1, "without a search nothing is looked at"
