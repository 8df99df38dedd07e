"""Each rule of the caching allocator, worked by hand; names in parentheses are PyTorch's.

They stand in c10/cuda/CUDACachingAllocator.cpp and c10/core/AllocatorConfig.cpp.
"""

import pickle

import pytest

from petl_bench.errors import UsageError
from petl_bench.profilers.simulated.allocator import (
    AllocatorSettings,
    CachingAllocator,
    OutOfMemoryError,
)
from petl_bench.profilers.simulated.allocator.snapshot import snapshot
from petl_bench.profilers.simulated.allocator.trace import replay
from petl_bench.units import MIB

EXPANDABLE = AllocatorSettings(expandable_segments=True)


def sizes_and_states(allocator):
    return [
        [(block["size"], block["state"] == "active_allocated") for block in segment["blocks"]]
        for segment in snapshot(allocator)
    ]


def address_of(allocator, requested_size):
    """The address of the one block in use that was asked for with `requested_size` bytes."""
    (address,) = (
        block["address"]
        for segment in snapshot(allocator)
        for block in segment["blocks"]
        if block["state"] == "active_allocated" and block["requested_size"] == requested_size
    )
    return address


# Sizes and pools


@pytest.mark.parametrize(
    ("size", "charged"), [(1, 512), (511, 512), (512, 512), (513, 1024), (MIB, MIB)]
)
def test_a_request_is_rounded_up_to_512_bytes(size, charged):  # round_size
    allocator = CachingAllocator()
    assert allocator.malloc(0, size) == charged
    assert allocator.allocated_bytes == allocator.active_bytes == charged
    assert allocator.requested_bytes == size


def test_a_block_serves_the_stream_that_it_was_allocated_for():  # get_free_block
    allocator = CachingAllocator(capacity_bytes=30 * MIB)
    for key, stream in enumerate((0, 1, 1, 0)):
        allocator.malloc(key, 12 * MIB, stream)
        allocator.free(key)
    assert allocator.reserved_bytes == 24 * MIB
    allocator.malloc(4, 12 * MIB, stream=2)  # cached segments of all streams make room
    assert allocator.reserved_bytes == 12 * MIB


def test_an_empty_storage_has_no_block():  # NativeCachingAllocator::allocate
    allocator = CachingAllocator(capacity_bytes=0)
    assert allocator.malloc(0, 0) == 0
    assert allocator.reserved_bytes == allocator.allocated_bytes == 0
    assert snapshot(allocator) == []
    allocator.free(0)


@pytest.mark.parametrize(
    ("size", "segment"),
    [
        (1, 2 * MIB),
        (MIB, 2 * MIB),
        (MIB + 1, 20 * MIB),
        (10 * MIB - 512, 20 * MIB),
        (10 * MIB - 511, 10 * MIB),  # rounded to 10 MiB before it is compared
        (10 * MIB, 10 * MIB),
        (10 * MIB + 1, 12 * MIB),
        (12 * MIB, 12 * MIB),
        (1000 * MIB + 1, 1002 * MIB),
    ],
)
def test_a_first_request_reserves_a_segment_by_its_size(size, segment):  # get_allocation_size
    allocator = CachingAllocator()
    allocator.malloc(0, size)
    assert allocator.reserved_bytes == segment
    assert allocator.segment_count == 1


def test_small_and_large_requests_never_share_a_segment():  # get_pool
    allocator = CachingAllocator()
    allocator.malloc(0, MIB + 512)  # leaves nearly 19 MiB free in the large pool
    allocator.malloc(1, MIB)
    assert allocator.reserved_bytes == 22 * MIB
    assert [segment["segment_type"] for segment in snapshot(allocator)] == ["large", "small"]


# Splitting


def test_a_mebibyte_or_less_that_is_left_of_a_large_block_is_not_split_off():  # should_split
    allocator = CachingAllocator()
    # 37.5 MiB in a segment of 38 MiB; the 524,288 bytes left are too few.
    assert allocator.malloc(0, 39_321_600) == 39_845_888
    # 11 MiB in 12 MiB leaves 1 MiB, still too few.
    assert allocator.malloc(1, 11 * MIB) == 12 * MIB
    assert allocator.inactive_split_bytes == 0


def test_more_than_a_mebibyte_that_is_left_of_a_large_block_is_split_off():  # should_split
    allocator = CachingAllocator()
    assert allocator.malloc(0, 11 * MIB - 512) == 11 * MIB - 512
    assert allocator.reserved_bytes == 12 * MIB
    assert allocator.inactive_split_bytes == MIB + 512


def test_the_small_pool_splits_off_as_little_as_512_bytes():  # should_split
    allocator = CachingAllocator()
    allocator.malloc(0, MIB)
    assert allocator.malloc(1, MIB - 512) == MIB - 512
    assert allocator.reserved_bytes == 2 * MIB
    assert allocator.inactive_split_bytes == 512
    assert sizes_and_states(allocator) == [[(MIB, True), (MIB - 512, True), (512, False)]]


def test_a_cached_block_counts_whole_for_a_smaller_request():  # alloc_found_block
    allocator = CachingAllocator()
    allocator.malloc(0, 14 * MIB)
    allocator.free(0)
    assert allocator.malloc(1, 13 * MIB) == 14 * MIB
    assert (allocator.allocated_bytes, allocator.requested_bytes) == (14 * MIB, 13 * MIB)


# Which block


def test_the_smallest_cached_block_that_fits_is_taken():  # BlockComparatorSize
    allocator = CachingAllocator()
    for key, size in enumerate((16 * MIB, 14 * MIB, 30 * MIB)):
        allocator.malloc(key, size)
    for key in range(3):
        allocator.free(key)
    assert allocator.malloc(3, 13 * MIB + 512) == 14 * MIB
    assert allocator.malloc(4, 13 * MIB + 512) == 13 * MIB + 512  # of 16 MiB, split
    assert allocator.reserved_bytes == 60 * MIB


def test_the_lowest_address_is_taken_among_blocks_of_one_size():  # BlockComparatorSize
    allocator = CachingAllocator()
    for key in range(3):
        allocator.malloc(key, 12 * MIB)
    first = snapshot(allocator)[0]["address"]
    for key in (2, 0, 1):
        allocator.free(key)
    allocator.malloc(3, 12 * MIB - 1)
    assert address_of(allocator, 12 * MIB - 1) == first


def test_a_cached_block_is_used_before_the_device_is_asked():  # malloc
    allocator = CachingAllocator()
    allocator.malloc(0, 8 * MIB)
    allocator.malloc(1, 8 * MIB)
    allocator.malloc(2, 4 * MIB)
    assert allocator.reserved_bytes == 20 * MIB
    allocator.malloc(3, 2 * MIB)
    assert allocator.reserved_bytes == 40 * MIB


# Freeing


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (0, 2, 1), (1, 0, 2), (1, 2, 0)])
def test_a_freed_block_merges_with_free_neighbours_on_both_sides(order):  # try_merge_blocks
    allocator = CachingAllocator()
    for key in range(3):
        allocator.malloc(key, 512 * 1024)
    for key in order:
        allocator.free(key)
    assert sizes_and_states(allocator) == [[(2 * MIB, False)]]
    assert allocator.inactive_split_bytes == 0
    assert allocator.requested_bytes == allocator.allocated_bytes == 0


def test_free_parts_of_a_split_segment_are_inactive_split_bytes():  # free_block
    allocator = CachingAllocator()
    for key in range(3):
        allocator.malloc(key, 4 * MIB)
    assert allocator.inactive_split_bytes == 8 * MIB
    allocator.free(0)
    assert allocator.inactive_split_bytes == 12 * MIB
    allocator.malloc(3, 12 * MIB)
    allocator.free(3)  # whole, so not split
    assert allocator.inactive_split_bytes == 12 * MIB


def test_emptying_the_cache_keeps_segments_in_partial_use():  # release_blocks
    allocator = CachingAllocator()
    allocator.malloc(0, 4 * MIB)
    allocator.malloc(1, 4 * MIB)
    allocator.malloc(2, 64 * MIB)
    allocator.malloc(3, 512)
    for key in (1, 2, 3):
        allocator.free(key)
    allocator.empty_cache()
    assert allocator.reserved_bytes == 20 * MIB
    assert allocator.segment_count == 1
    allocator.free(0)
    allocator.empty_cache()
    assert allocator.reserved_bytes == 0


def test_a_key_stands_for_one_storage_at_a_time():
    allocator = CachingAllocator()
    allocator.malloc(7, 1)
    with pytest.raises(ValueError, match="7 is allocated already"):
        allocator.malloc(7, 1)
    with pytest.raises(ValueError, match="-1 bytes"):
        allocator.malloc(8, -1)
    allocator.free(7)
    with pytest.raises(KeyError):
        allocator.free(7)


# A device that is full


def test_cached_segments_are_released_before_a_request_fails():  # release_cached_blocks
    allocator = CachingAllocator(40 * MIB)
    allocator.malloc(0, 20 * MIB)
    allocator.malloc(1, 512)
    allocator.free(0)
    allocator.malloc(2, 30 * MIB)
    assert allocator.reserved_bytes == 32 * MIB


def test_a_segment_in_partial_use_is_not_released_for_a_request():  # release_blocks
    allocator = CachingAllocator(40 * MIB)
    allocator.malloc(0, 4 * MIB)
    allocator.malloc(1, 14 * MIB + 1)
    allocator.free(1)
    with pytest.raises(OutOfMemoryError) as caught:
        allocator.malloc(2, 24 * MIB)
    error = caught.value
    assert (error.requested_bytes, error.allocated_bytes) == (24 * MIB, 4 * MIB)
    assert (error.reserved_bytes, error.capacity_bytes) == (20 * MIB, 40 * MIB)
    assert str(error) == (
        "out of memory: 24.00 MiB requested with 4.00 MiB allocated and 20.00 MiB reserved "
        "of 40.00 MiB"
    )
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301  # our own


def test_the_allocator_goes_on_after_a_request_failed():  # malloc
    allocator = CachingAllocator(10 * MIB)
    with pytest.raises(OutOfMemoryError):
        allocator.malloc(0, 10 * MIB + 1)
    assert allocator.malloc(0, 10 * MIB) == 10 * MIB
    assert allocator.reserved_bytes == allocator.allocated_bytes == 10 * MIB


def test_a_memory_fraction_limits_what_is_reserved():  # setMemoryFraction
    allocator = CachingAllocator(100 * MIB, AllocatorSettings(per_process_memory_fraction=0.5))
    allocator.malloc(0, 50 * MIB)
    with pytest.raises(OutOfMemoryError) as caught:
        allocator.malloc(1, 1)
    assert caught.value.capacity_bytes == 50 * MIB
    with pytest.raises(UsageError, match="needs a capacity"):
        CachingAllocator(settings=AllocatorSettings(per_process_memory_fraction=0.5))


def test_old_segments_are_collected_above_the_threshold():  # garbage_collect_cached_blocks
    settings = AllocatorSettings(garbage_collection_threshold=0.5, per_process_memory_fraction=0.9)
    allocator = CachingAllocator(1000 * MIB, settings)
    for key, size in enumerate((200 * MIB, 300 * MIB)):
        allocator.malloc(key, size)
        allocator.free(key)
    # Reserved: 500 MiB, above 0.5 * 900. Freed 2 and 1 searches ago, 1.5 on the mean:
    # the first goes, which is enough.
    allocator.malloc(2, 350 * MIB)
    assert allocator.reserved_bytes == 650 * MIB


def test_nothing_is_collected_without_a_memory_fraction():  # malloc
    allocator = CachingAllocator(1000 * MIB, AllocatorSettings(garbage_collection_threshold=0.1))
    for key, size in enumerate((200 * MIB, 300 * MIB)):
        allocator.malloc(key, size)
        allocator.free(key)
    allocator.malloc(2, 350 * MIB)
    assert allocator.reserved_bytes == 850 * MIB


# max_split_size_mb


def test_an_oversize_block_serves_only_requests_of_nearly_its_size():  # get_free_block
    allocator = CachingAllocator(settings=AllocatorSettings.parse("max_split_size_mb:64"))
    allocator.malloc(0, 100 * MIB)
    allocator.free(0)
    allocator.malloc(1, 30 * MIB)  # too small for an oversize block
    assert allocator.reserved_bytes == 130 * MIB
    allocator.malloc(2, 80 * MIB)  # 100 MiB is 20 MiB (max_non_split_rounding) more, too much
    assert allocator.reserved_bytes == 210 * MIB
    assert allocator.malloc(3, 80 * MIB + 1) == 100 * MIB  # not split
    assert allocator.reserved_bytes == 210 * MIB


def test_a_wider_rounding_lets_an_oversize_block_serve_smaller_requests():  # get_free_block
    settings = AllocatorSettings.parse("max_split_size_mb:64,max_non_split_rounding_mb:32")
    allocator = CachingAllocator(settings=settings)
    allocator.malloc(0, 100 * MIB)
    allocator.free(0)
    assert allocator.malloc(1, 68 * MIB + 1) == 100 * MIB


def test_one_oversize_block_is_released_if_it_is_enough():  # release_available_cached_blocks
    allocator = CachingAllocator(200 * MIB, AllocatorSettings.parse("max_split_size_mb:64"))
    for key, size in enumerate((80 * MIB, 100 * MIB, 20 * MIB)):
        allocator.malloc(key, size)
    allocator.free(0)
    allocator.free(1)
    allocator.malloc(3, 30 * MIB)
    assert allocator.reserved_bytes == (200 - 80 + 30) * MIB


def test_oversize_blocks_are_released_from_the_largest_on():  # release_available_cached_blocks
    allocator = CachingAllocator(300 * MIB, AllocatorSettings.parse("max_split_size_mb:64"))
    for key, size in enumerate((80 * MIB, 90 * MIB, 100 * MIB, 20 * MIB)):
        allocator.malloc(key, size)
    for key in range(3):
        allocator.free(key)
    allocator.malloc(4, 150 * MIB)
    assert allocator.reserved_bytes == (290 - 100 - 90 + 150) * MIB


def test_a_whole_20_mib_segment_may_be_oversize_itself():  # get_free_block
    allocator = CachingAllocator(settings=AllocatorSettings.parse("max_split_size_mb:20"))
    allocator.malloc(0, 5 * MIB)
    allocator.free(0)
    allocator.malloc(1, 5 * MIB)
    assert allocator.reserved_bytes == 40 * MIB


# Other settings


@pytest.mark.parametrize(
    ("option", "charged"),
    [
        ("4", 96 * MIB),  # of 64 MiB to 128 MiB in steps of 16
        ("8", 88 * MIB),
        ("1", 84 * MIB),  # one division is none
        ("[64:8,128:2,256:4,512:2,1024:4,>:1]", 88 * MIB),
        ("[32:8,>:2]", 96 * MIB),
        ("[128:4]", 96 * MIB),  # the first entry counts downwards too
    ],
)
def test_84_mib_are_rounded_to_a_division_of_64_mib(option, charged):
    # roundup_power2_next_division
    settings = AllocatorSettings.parse(f"roundup_power2_divisions:{option}")
    assert CachingAllocator(settings=settings).malloc(0, 84 * MIB) == charged


@pytest.mark.parametrize(
    ("size", "charged"), [(1200, 1536), (4 * 512, 2048), (2049, 2560), (2560, 2560), (4096, 4096)]
)
def test_divisions_are_never_smaller_than_512_bytes(size, charged):  # round_size
    settings = AllocatorSettings.parse("roundup_power2_divisions:4")
    assert CachingAllocator(settings=settings).malloc(0, size) == charged


def test_the_size_of_large_segments_can_be_chosen():  # get_allocation_size
    allocator = CachingAllocator(settings=AllocatorSettings.parse("large_segment_size_mb:12"))
    allocator.malloc(0, 5 * MIB)
    assert allocator.reserved_bytes == 12 * MIB


def test_settings_are_read_as_pytorch_writes_them():  # AcceleratorAllocatorConfig::parseArgs
    text = (
        "max_split_size_mb:40, max_non_split_rounding_mb:30,garbage_collection_threshold:0.5,"
        "roundup_power2_divisions:[64:8,128:2,256:4,512:2,1024:4,>:1],expandable_segments:True,"
        "pinned_use_background_threads:True,backend:native,throw_on_cudamalloc_oom:False,"
        "per_process_memory_fraction:0.9,large_segment_size_mb:24"
    )
    assert AllocatorSettings.parse(text) == AllocatorSettings(
        expandable_segments=True,
        large_segment_size_bytes=24 * MIB,
        max_split_size_bytes=40 * MIB,
        max_non_split_rounding_bytes=30 * MIB,
        roundup_power2_divisions=(8,) * 7 + (2, 4, 2, 4) + (1,) * 5,
        garbage_collection_threshold=0.5,
        per_process_memory_fraction=0.9,
    )
    assert AllocatorSettings.parse("") == AllocatorSettings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_split_mb:128", "'max_split_mb' is no option of the allocator; choose from backend,"),
        ("max_split_size_mb", "'max_split_size_mb' is not an allocator option; write name:value"),
        ("max_split_size_mb:19", "max_split_size_mb must be 20"),
        ("max_split_size_mb:21,large_segment_size_mb:22", "max_split_size_mb must be 22"),
        ("max_non_split_rounding_mb:10", "max_non_split_rounding_mb must be 20"),
        ("max_split_size_mb:1.5", "max_split_size_mb takes whole numbers, not '1.5'"),
        ("large_segment_size_mb:10", "large_segment_size_mb must be above 10"),
        ("expandable_segments:true", "expandable_segments takes True or False here, not 'true'"),
        ("backend:cudaMallocAsync", "backend takes native here, not 'cudaMallocAsync'"),
        ("throw_on_cudamalloc_oom:True", "throw_on_cudamalloc_oom takes False here"),
        ("garbage_collection_threshold:0", "garbage_collection_threshold must be above 0.0"),
        ("garbage_collection_threshold:1", "garbage_collection_threshold must lie between"),
        ("garbage_collection_threshold:x", "garbage_collection_threshold takes a number"),
        ("per_process_memory_fraction:1.1", "per_process_memory_fraction must lie between"),
        ("roundup_power2_divisions:3", "roundup_power2_divisions takes a power of 2, not '3'"),
        ("roundup_power2_divisions:[64:3]", "roundup_power2_divisions takes powers of 2"),
        ("roundup_power2_divisions:[60:4]", "intervals that start at a power of 2, not '60'"),
    ],
)
def test_a_setting_that_pytorch_or_the_model_does_not_know_is_named(text, message):
    with pytest.raises(UsageError, match=r"^[^\n]*$") as caught:
        AllocatorSettings.parse(text)
    assert message in str(caught.value)


def test_divisions_are_one_number_per_power_of_2():
    with pytest.raises(UsageError, match="takes 16 numbers"):
        AllocatorSettings(roundup_power2_divisions=(4,))


# expandable_segments


def test_an_expandable_segment_grows_by_2_mib_or_20_mib_pages():  # map_block
    allocator = CachingAllocator(settings=EXPANDABLE)
    allocator.malloc(0, 512)
    assert allocator.reserved_bytes == 2 * MIB
    assert allocator.malloc(1, 39_321_600) == 39_321_600  # 37.5 MiB, in full
    assert allocator.reserved_bytes == 42 * MIB
    allocator.malloc(2, 30 * MIB)  # 67.5 MiB in 80
    assert allocator.reserved_bytes == 82 * MIB
    assert [segment["is_expandable"] for segment in snapshot(allocator)] == [True, True]
    assert allocator.segment_count == 0  # the statistic counts cudaMalloc alone
    assert allocator.inactive_split_bytes == 0  # as the statistic leaves them out


@pytest.mark.parametrize("option", ["", ",max_split_size_mb:20"])
def test_an_expandable_segment_is_split_to_512_bytes(option):  # should_split
    settings = AllocatorSettings.parse(f"expandable_segments:True{option}")
    allocator = CachingAllocator(settings=settings)
    assert allocator.malloc(0, 20 * MIB - 512) == 20 * MIB - 512
    assert sizes_and_states(allocator) == [[(20 * MIB - 512, True), (512, False)]]


def test_pages_within_free_blocks_are_unmapped_when_the_cache_is_emptied():  # unmap_block
    allocator = CachingAllocator(settings=EXPANDABLE)
    for key, size in enumerate((10 * MIB, 30 * MIB, 20 * MIB)):
        allocator.malloc(key, size)
    allocator.free(1)  # from 10 to 40 MiB: one page, from 20 to 40, is free
    allocator.empty_cache()
    assert allocator.reserved_bytes == 40 * MIB
    assert sizes_and_states(allocator) == [
        [(10 * MIB, True), (10 * MIB, False)],
        [(20 * MIB, True)],
    ]


def test_an_expandable_segment_without_pages_is_given_up():  # release_expandable_segment
    allocator = CachingAllocator(settings=EXPANDABLE)
    allocator.malloc(0, 30 * MIB)
    first = address_of(allocator, 30 * MIB)
    allocator.free(0)
    allocator.empty_cache()
    assert allocator.reserved_bytes == 0
    allocator.malloc(1, 30 * MIB)
    assert address_of(allocator, 30 * MIB) > first + 30 * MIB


def test_a_gap_is_filled_before_the_segment_grows():  # find_expandable_block
    allocator = CachingAllocator(settings=EXPANDABLE)
    for key in range(3):
        allocator.malloc(key, 20 * MIB - key)
    gap = address_of(allocator, 20 * MIB - 1)
    allocator.free(1)
    allocator.empty_cache()
    allocator.malloc(3, 20 * MIB - 3)
    assert address_of(allocator, 20 * MIB - 3) == gap
    assert len(snapshot(allocator)) == 1  # one run again


def test_a_gap_joins_the_free_block_before_it():  # try_allocate_expandable_block
    allocator = CachingAllocator(settings=EXPANDABLE)
    for key, size in enumerate((10 * MIB, 30 * MIB, 20 * MIB)):
        allocator.malloc(key, size)
    allocator.free(1)
    allocator.empty_cache()
    allocator.malloc(3, 25 * MIB)  # the 10 MiB that stayed and 15 of the page behind
    assert sizes_and_states(allocator) == [
        [(10 * MIB, True), (25 * MIB, True), (5 * MIB, False), (20 * MIB, True)]
    ]


def test_the_end_that_can_grow_is_kept_for_larger_requests():  # get_free_block
    allocator = CachingAllocator(settings=EXPANDABLE)
    allocator.malloc(0, 8 * MIB)
    allocator.malloc(1, 6 * MIB)  # 6 MiB stay at the end of the page
    hole = address_of(allocator, 8 * MIB)
    allocator.free(0)
    allocator.malloc(2, 5 * MIB)
    assert address_of(allocator, 5 * MIB) == hole


def test_an_expandable_segment_fails_when_the_next_page_does_not_fit():  # map_block
    allocator = CachingAllocator(50 * MIB, EXPANDABLE)
    allocator.malloc(0, 30 * MIB)
    with pytest.raises(OutOfMemoryError) as caught:
        allocator.malloc(1, 20 * MIB)  # 10 MiB are left, another page makes 60 MiB
    assert caught.value.reserved_bytes == 40 * MIB  # the half-used page cannot be unmapped
    assert allocator.malloc(1, 10 * MIB) == 10 * MIB


def test_free_pages_move_from_one_pool_to_the_other_when_memory_runs_out():  # release_blocks
    allocator = CachingAllocator(20 * MIB, EXPANDABLE)
    for key in range(20):
        allocator.malloc(key, MIB)
    assert allocator.reserved_bytes == 20 * MIB
    for key in range(20):
        allocator.free(key)
    allocator.malloc(20, 15 * MIB)
    assert allocator.reserved_bytes == 20 * MIB
    assert [segment["segment_type"] for segment in snapshot(allocator)] == ["large"]


# Snapshots and traces


def test_segments_have_the_form_of_a_memory_snapshot():  # snapshot
    allocator = CachingAllocator()
    allocator.malloc(0, 3 * MIB - 1)
    allocator.malloc(1, 4 * MIB)
    allocator.free(0)
    (segment,) = snapshot(allocator)
    start = segment["address"]
    assert segment == {
        "address": start,
        "total_size": 20 * MIB,
        "allocated_size": 4 * MIB,
        "active_size": 4 * MIB,
        "requested_size": 4 * MIB,
        "stream": 0,
        "segment_type": "large",
        "is_expandable": False,
        "blocks": [
            {
                "address": start,
                "size": 3 * MIB,
                "requested_size": 3 * MIB - 1,
                "state": "inactive",
            },
            {
                "address": start + 3 * MIB,
                "size": 4 * MIB,
                "requested_size": 4 * MIB,
                "state": "active_allocated",
            },
            {
                "address": start + 7 * MIB,
                "size": 13 * MIB,
                "requested_size": 0,
                "state": "inactive",
            },
        ],
    }


def test_pytorch_can_read_the_segments():
    from torch.cuda._memory_viz import segsum

    allocator = CachingAllocator()
    allocator.malloc(0, 39_321_600)
    summary = segsum({"segments": snapshot(allocator)})
    assert "total_reserved: 38.0MiB" in summary
    assert "total_allocated: 37.5MiB" in summary  # as requested


def entry(action, address, size, stream=0):
    return {"action": action, "addr": address, "size": size, "stream": stream, "frames": []}


TRACE = [
    entry("segment_alloc", 0x7F0000400000, 12 * MIB),
    entry("alloc", 0x7F0000400000, 12 * MIB),
    entry("segment_alloc", 0x7F0000200000, 2 * MIB),
    entry("alloc", 0x7F0000200000, 100),
    entry("alloc", 0x7F0000200200, 1000),
    entry("free_requested", 0x7F0000400000, 12 * MIB),
    entry("free_completed", 0x7F0000400000, 12 * MIB),
    entry("segment_alloc", 0x7E0000000000, 12 * MIB + 2 * MIB),
    entry("alloc", 0x7E0000000000, 14 * MIB),
    entry("free_requested", 0x7E0000000000, 14 * MIB),
    entry("free_completed", 0x7E0000000000, 14 * MIB),
    entry("snapshot", 0, 0),
    entry("alloc", 0x7F0000400000, 11 * MIB),  # the smaller of the two, though higher
    entry("free_requested", 0x7F0000400000, 11 * MIB),
    entry("free_completed", 0x7F0000400000, 11 * MIB),
    entry("segment_free", 0x7F0000400000, 12 * MIB),  # empty_cache: the small one is in use
    entry("segment_free", 0x7E0000000000, 14 * MIB),
    entry("free_requested", 0x7F0000200000, 100),
    entry("free_completed", 0x7F0000200000, 100),
    {"action": "oom", "device_free": 0, "size": 2**40, "stream": 0, "frames": []},
]


def test_a_recorded_trace_is_replayed_step_by_step():
    steps = list(replay(TRACE))
    assert [step.reserved_bytes // MIB for step in steps] == [12, 14, 14, 14, 28, 28, 28, 28, 2]
    assert [step.allocated_bytes for step in steps[:3]] == [
        12 * MIB,
        12 * MIB + 512,
        12 * MIB + 512 + 1024,
    ]
    assert steps[5].action == "free_completed"
    assert steps[6].allocated_bytes == 12 * MIB + 512 + 1024  # 11 MiB in 12, not split
    assert steps[-1].allocated_bytes == 1024
    assert all(step.agrees for step in steps)


def test_a_trace_of_expandable_segments_is_replayed():
    start = 0x300000000
    trace = [
        entry("segment_map", start, 20 * MIB),
        entry("alloc", start, 10 * MIB),
        entry("segment_map", start + 20 * MIB, 20 * MIB),
        entry("alloc", start + 10 * MIB, 30 * MIB),
        entry("segment_map", start + 40 * MIB, 20 * MIB),
        entry("alloc", start + 40 * MIB, 20 * MIB),
        entry("free_completed", start + 10 * MIB, 30 * MIB),
        entry("segment_unmap", start + 20 * MIB, 20 * MIB),
        entry("alloc", start + 10 * MIB, 10 * MIB),
    ]
    steps = list(replay(trace, EXPANDABLE))
    assert all(step.agrees for step in steps)
    assert [step.reserved_bytes // MIB for step in steps] == [20, 40, 60, 60, 40]


def test_a_trace_of_other_rules_is_found_to_disagree():
    trace = [
        entry("segment_alloc", 0x200000, 40 * MIB),  # nothing rounds to 40 MiB by default
        entry("alloc", 0x200000, 38 * MIB),
        entry("segment_alloc", 0x4000000, 20 * MIB),
        entry("alloc", 0x4000000, 2 * MIB),
        entry("segment_alloc", 0x8000000, 20 * MIB),
        entry("alloc", 0x8000000, 2 * MIB),  # the model takes what is left of the one before
    ]
    steps = list(replay(trace))
    assert [step.agrees for step in steps] == [False, False, False]
    assert steps[2].address == 0x4000000 + 2 * MIB
    assert steps[2].reserved_bytes - steps[2].recorded_reserved_bytes == -22 * MIB


def test_a_trace_must_begin_empty_and_keep_to_one_stream():
    with pytest.raises(ValueError, match="the trace frees 0x200, allocated before it began"):
        list(replay([entry("free_completed", 0x200, 512)]))
    two = [entry("alloc", 0x200, 512), entry("alloc", 0x400, 512, stream=5)]
    with pytest.raises(ValueError, match="more than one stream"):
        list(replay(two))
