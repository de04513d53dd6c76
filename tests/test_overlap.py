"""Items made ahead and calls finished behind come in order, at once with the rest, and their errors arrive."""

import threading

import pytest

from scdmc.overlap import ahead, behind

SECONDS = 20  # before a test that waits for a thread is a failure


def test_items_come_in_order_and_are_made_before_they_are_asked_for():
    second_is_made = threading.Event()

    def items():
        yield 0
        second_is_made.set()
        yield from range(1, 5)

    made = ahead(items())
    assert next(made) == 0
    assert second_is_made.wait(SECONDS)
    assert list(made) == [1, 2, 3, 4]
    assert list(ahead([])) == []


def test_an_item_that_cannot_be_made_is_an_error_in_its_place():
    def items():
        yield 0
        raise OSError("the disk is gone")

    made = ahead(items())
    assert next(made) == 0
    with pytest.raises(OSError, match="the disk is gone"):
        next(made)


def test_whoever_stops_early_leaves_no_thread():
    before = threading.active_count()
    made = ahead(iter(range(100)))
    next(made)
    made.close()
    assert threading.active_count() == before


def test_calls_are_made_in_order_and_all_of_them_while_the_caller_goes_on():
    calls, may_go = [], threading.Event()

    def slow(number):
        may_go.wait(SECONDS)
        calls.append(number)

    with behind() as call:
        call(slow, 0)
        call(slow, 1)
        assert calls == []
        may_go.set()
        for number in range(2, 6):
            call(slow, number)
    assert calls == list(range(6))


@pytest.mark.parametrize("n_calls_after", [0, 1, 5])
def test_the_first_error_is_raised_and_nothing_is_called_after_it(n_calls_after):
    calls = []

    def fail():
        raise OSError("the disk is full")

    def write():
        with behind() as call:
            call(fail)
            for number in range(n_calls_after):
                call(calls.append, number)

    with pytest.raises(OSError, match="the disk is full"):
        write()
    assert calls == []


def test_an_error_of_the_block_itself_ends_the_thread():
    def fail():
        with behind() as call:
            call(int)
            raise ValueError("of the block")

    before = threading.active_count()
    with pytest.raises(ValueError, match="of the block"):
        fail()
    assert threading.active_count() == before
