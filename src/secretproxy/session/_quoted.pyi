_Cut = tuple[bytes, bytes, bytes, int, bytes, str, str, str]

def cut(message: bytes, /) -> _Cut | None: ...
def heard(notice: bytes, pos: int, end: int, /) -> _Cut | None: ...
def again(
    notice: bytes,
    pos: int,
    end: int,
    begun: bytes,
    function: bytes,
    owner: bytes,
    jwt_user: bytes,
    name: str,
    texts: bytes,
    /,
) -> tuple[bytes, bytes, int] | None: ...
