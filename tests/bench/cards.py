"""Which cards the published models fit, and with which options: `python -m tests.bench.cards`.

`wan model inspect PATH --cards` prints the same of a model on disk.
"""

from pathlib import Path

from broker.wire.model_profile import Family
from launcher.card_table import CARD_GB, NUM_CARDS, SMALL_SIZE, card_rows
from ranks.model_files.components import WEIGHTED, Component, ModelFiles
from ranks.model_files.memory_estimate import sizes_of
from ranks.model_files.profiles import profile_of
from tests.ranks.model.real_models import config_of

MODELS: dict[str, Family] = {
    "Wan2.1 I2V, FLF2V": "wan2.1-flf2v",
    "Wan2.2 I2V-A14B": "wan2.2-i2v-a14b",
    "Wan2.2 TI2V-5B": "wan2.2-ti2v-5b",
}


def real_files(family: Family) -> ModelFiles:
    """Return a published model by its configs, without weights."""
    components = {
        part: Component(
            place="",
            config=config_of("transformer" if part == "transformer_2" else part, family),
            weights={},
        )
        for part in WEIGHTED[family]
    }
    return ModelFiles(
        place=Path(),
        family=family,
        components=components,
        tokenizer=Path(),
        image_processor=None,
    )


def table(num_cards: int) -> str:
    """Return the table of groups of so many cards, as Markdown."""
    head = ["model", "size", *(f"{card_gb} GB" for card_gb in CARD_GB)]
    lines = [head, ["---"] * len(head)]
    for name, family in MODELS.items():
        lines += _rows(name, family, num_cards)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _rows(name: str, family: Family, num_cards: int) -> list[list[str]]:
    files = real_files(family)
    profile = profile_of(files, family)
    found = [
        cells
        for number, _, cells in card_rows(sizes_of(files), profile, files.num_heads)
        if number == num_cards
    ]
    return [
        [name, size.replace("*", "\\*"), *(_code(cells[size].text) for cells in found)]
        for size in (SMALL_SIZE, profile.image_size)
    ]


def _code(text: str) -> str:
    return f"`{text}`" if text.startswith("--") else text


def main() -> None:
    for num_cards in NUM_CARDS:
        print(f"\n{num_cards} cards\n\n{table(num_cards)}")


if __name__ == "__main__":
    main()
