import pytest

from perdure.errors import RejectError
from perdure.ic.reject import RejectCode
from perdure.kit.rejects import rejects

TRAP = RejectError(5, "IC0503", "Canister trapped: assertion failed", ("transfer",))


def failing():
    raise TRAP


def test_a_rejection_is_expected_and_kept():
    with rejects() as rejected:
        failing()
    assert rejected.error is TRAP
    with rejects(code=RejectCode.CANISTER_ERROR, error_code="IC0503", match=r"assert\w+ failed") as rejected:
        failing()
    assert rejected.error.backtrace == ("transfer",)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"code": 4}, "rejected with code 5, expected 4"),
        ({"error_code": "IC0502"}, "rejected with error code 'IC0503', expected 'IC0502'"),
        ({"match": "out of"}, "expected one that matches 'out of'"),
    ],
)
def test_another_rejection_fails(wanted, message):
    with pytest.raises(AssertionError, match=message) as caught, rejects(**wanted):
        failing()
    assert caught.value.__cause__ is TRAP


def test_success_fails():
    with (
        pytest.raises(AssertionError, match="expected a rejection with code 5, and all calls succeeded"),
        rejects(code=5),
    ):
        pass


def test_other_exceptions_pass():
    with pytest.raises(ZeroDivisionError), rejects():
        _ = 1 // 0


def test_there_is_no_error_before_it_happened():
    context = rejects()
    with pytest.raises(AssertionError, match="nothing was rejected yet"):
        _ = context.error


def test_codes_go_by_their_names():
    error = RejectError(5, "IC0503", "trapped", ())
    with rejects(code="CANISTER_ERROR"):
        raise error
    with pytest.raises(ValueError, match="no reject code 'CANISTER_EROR', expected 1 to 6 or one of SYS_FATAL, "):
        rejects(code="CANISTER_EROR")
