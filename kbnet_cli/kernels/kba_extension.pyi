def forms() -> list[str]: ...
def forward(
    form: str,
    addresses: tuple[int, int, int, int, int],
    sizes: tuple[int, int, int, int, int, int, int],
    /,
) -> None: ...
def backward(
    form: str,
    addresses: tuple[int, int, int, int, int, int, int, int, int, int, int],
    sizes: tuple[int, int, int, int, int, int, int],
    /,
) -> None: ...
