"""SQLite files that a library writes through SQLAlchemy: quicker, and with errors that a user understands."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from analysis.load import AnalysisError

HEADER = b"SQLite format 3\0"
"""How every SQLite file begins: https://www.sqlite.org/fileformat.html, 1.3.1."""


def address(path: Path) -> str:
    """The SQLAlchemy URL of a file.

    Raises:
        AnalysisError: the path holds what has a meaning in a URL, which SQLAlchemy cannot escape there.
    """
    whole = str(path.resolve())
    if bad := sorted({c for c in whole if c in "?#%"}):
        raise AnalysisError(f"{whole} holds {' and '.join(bad)}, which has a meaning in a database's URL; --out DIR writes elsewhere")
    return f"sqlite:///{whole}"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Lets SQLite leave it to the system when its transactions reach the disk, as mlflow's own migration does: each is whole still when
    this process dies, only a machine that dies may leave a file that has to be exported again. Twice as quick on a disk, more on NFS.

    Raises:
        AnalysisError: the file cannot be written, or is no database of this library.
    """
    from sqlalchemy import event, exc
    from sqlalchemy.engine import Engine

    if path.exists() and (trouble := _trouble(path)):  # mlflow would try again and again for two minutes
        raise AnalysisError(f"{path} {trouble}; --out DIR writes elsewhere, or move that file away")

    def hurry(connection: Any, _: object) -> None:
        connection.execute("PRAGMA synchronous=OFF")

    noisy = [logging.getLogger(name) for name in ("alembic", "mlflow")]
    levels = [logger.level for logger in noisy]
    event.listen(Engine, "connect", hurry)
    for logger in noisy:
        logger.setLevel(logging.WARNING)
    try:
        yield
    except exc.SQLAlchemyError as error:
        raise AnalysisError(f"{path}: {str(error.args[0] if error.args else error).splitlines()[0][:200]}; --out DIR writes elsewhere, or "
                            "move that file away") from error
    finally:
        event.remove(Engine, "connect", hurry)
        for logger, level in zip(noisy, levels, strict=True):
            logger.setLevel(level)


def _trouble(path: Path) -> str:
    """What keeps a file from being a database that can be written; "" when nothing is seen."""
    if not os.access(path, os.W_OK):
        return "cannot be written"
    with path.open("rb") as file:
        begin = file.read(len(HEADER))
    return "is not a database" if begin and begin != HEADER else ""
