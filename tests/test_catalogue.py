"""The catalogue says of weights what the networks and files themselves say."""

import pytest
import torch

from kbnet_cli import checkpoint
from kbnet_cli.catalogue import (
    BUNDLED,
    DEFAULTS,
    ENTRIES,
    PUBLISHED,
    TASKS,
    Entry,
    Facts,
    default,
    facts_from_metadata,
    facts_to_metadata,
    find,
)
from kbnet_cli.hub import address
from kbnet_cli.networks.kbnet_l import KBNetL, KBNetLSizes
from kbnet_cli.networks.kbnet_s import KBNetS, KBNetSSizes

LIGHT = KBNetSSizes(lightweight=True, ffn_scale=1.5)
SIZES: dict[str, KBNetSSizes | KBNetLSizes] = {
    **{f"gaussian-color-{sigma}": KBNetSSizes() for sigma in (15, 25, 50)},
    **{f"gaussian-gray-{sigma}": KBNetSSizes(image_channels=1) for sigma in (15, 25, 50)},
    "sidd": LIGHT,
    "sensenoise": LIGHT,
    "derain": KBNetLSizes(),
    "defocus": KBNetLSizes(),
}


def test_every_published_checkpoint_is_known() -> None:
    assert [entry.name for entry in PUBLISHED] == list(SIZES)
    assert len({entry.name for entry in ENTRIES}) == len(ENTRIES)
    assert all(find(entry.name) is entry for entry in ENTRIES)
    assert find("nonsense") is None


@pytest.mark.parametrize("entry", PUBLISHED, ids=lambda entry: entry.name)
def test_published_entries_have_the_sizes_of_their_networks(entry: Entry) -> None:
    sizes = SIZES[entry.name]
    with torch.device("meta"):
        network = KBNetS(sizes) if isinstance(sizes, KBNetSSizes) else KBNetL(sizes)
    assert entry.architecture == ("KBNet-S" if isinstance(sizes, KBNetSSizes) else "KBNet-L")
    assert entry.parameters == sum(parameter.numel() for parameter in network.parameters())
    assert entry.width == sizes.width
    assert entry.channels == network.image_channels
    assert entry.facts.tile % network.size_multiple == 0
    assert entry.size_bytes == 4 * entry.parameters
    assert entry.path is None
    assert entry.figures


@pytest.mark.parametrize("entry", BUNDLED, ids=lambda entry: entry.name)
def test_bundled_entries_say_what_their_files_say(entry: Entry) -> None:
    assert entry.path is not None
    outline = checkpoint.outline(entry.path)
    assert (outline.architecture, outline.parameters) == (entry.architecture, entry.parameters)
    assert outline.sizes.width == entry.width
    assert outline.facts == entry.facts


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_addresses_are_https_or_of_the_hub_and_facts_can_be_written(entry: Entry) -> None:
    assert all(address.parse(source.address) is not None for source in entry.sources)
    assert facts_from_metadata(facts_to_metadata(entry.facts), entry.name) == entry.facts


def test_facts_that_are_not_known_are_not_written() -> None:
    assert facts_to_metadata(Facts()) == {"kbnet.tile": "256", "kbnet.limit": "0,1"}


def test_each_task_has_bundled_weights_for_it() -> None:
    assert set(DEFAULTS) == set(TASKS)
    for task in TASKS:
        entry = find(default(task))
        assert entry in BUNDLED
        assert entry is not None
        assert entry.task == task


def test_bundled_weights_are_small() -> None:
    # What every clone and every wheel carries.
    assert sum(entry.size_bytes for entry in BUNDLED) <= 40_000_000
