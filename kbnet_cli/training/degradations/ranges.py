"""Ranges that a recipe gives, checked before anything is drawn from them."""


def check_above_zero(part: object, *names: str) -> None:
    """Refuse ranges that are drawn from by their logarithm and reach down to 0.

    Raises:
        ValueError: naming the first such field.
    """
    for name in names:
        low, high = getattr(part, name)
        if low <= 0:
            raise ValueError(f"{name} is {[low, high]!r}, expected a range above 0")
