"""Files by URI: a local folder, s3://, gs:// or whatever else pyarrow knows."""

from __future__ import annotations

import os
import posixpath
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from mtm.errors import UserError


def absolute(uri: str) -> str:
    """The URI with a local path made absolute, so that every process means the same place."""
    return uri if "://" in uri else str(Path(uri).expanduser().absolute())


def join(uri: str, *parts: str) -> str:
    return posixpath.join(uri, *parts)


def resolve(uri: str) -> tuple[fs.FileSystem, str]:
    """File system and path of a URI. Raises UserError for one that names none."""
    try:
        return fs.FileSystem.from_uri(absolute(uri))
    except (pa.ArrowInvalid, ValueError, OSError) as error:
        raise UserError(f"storage path {uri!r} is not usable ({_first_line(error)})") from error


def is_local(uri: str) -> bool:
    return isinstance(resolve(uri)[0], fs.LocalFileSystem)


def files(uri: str) -> dict[str, int]:
    """Sizes in bytes of all files below ``uri``, by relative path; empty where there is nothing."""
    system, path = resolve(uri)
    found = system.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
    return {
        posixpath.relpath(info.path, path): info.size for info in found if info.type == fs.FileType.File
    }


def read(uri: str) -> bytes:
    """Content of a file; UserError where it cannot be read."""
    system, path = resolve(uri)
    try:
        with system.open_input_stream(path) as stream:
            return stream.read()
    except OSError as error:
        raise UserError(f"cannot read {uri} ({_first_line(error)})") from error


def write(uri: str, content: bytes) -> None:
    """Write a file whole or not at all."""
    system, path = resolve(uri)
    system.create_dir(posixpath.dirname(path), recursive=True)
    # An object store shows an upload when it is complete; a folder needs a rename for that.
    target = f"{path}.{uuid.uuid4().hex}.tmp" if isinstance(system, fs.LocalFileSystem) else path
    with system.open_output_stream(target) as stream:
        stream.write(content)
    if target != path:
        os.replace(target, path)


def delete(uri: str) -> None:
    """Delete a folder, if it is there."""
    system, path = resolve(uri)
    if system.get_file_info(path).type == fs.FileType.Directory:
        system.delete_dir(path)


def check_writable(uri: str) -> None:
    """Raises UserError where nothing can be written below ``uri``."""
    probe = join(uri, f".probe-{uuid.uuid4().hex}")
    try:
        write(probe, b"")
        system, path = resolve(probe)
        system.delete_file(path)
    except OSError as error:
        raise UserError(
            f"storage path {uri} is not writable ({_first_line(error)}); "
            "choose another with --storage-path"
        ) from error


@contextmanager
def local_copy(uri: str) -> Iterator[str]:
    """A local folder with the content of ``uri``: itself where it is local, else a temporary copy."""
    system, path = resolve(uri)
    if isinstance(system, fs.LocalFileSystem):
        yield path
        return
    folder = tempfile.mkdtemp(prefix="mtm-")
    try:
        fs.copy_files(path, folder, source_filesystem=system)
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def local_folder_for(uri: str) -> Iterator[str]:
    """A local folder to write into, whose content is then at ``uri``."""
    system, path = resolve(uri)
    system.create_dir(path, recursive=True)
    if isinstance(system, fs.LocalFileSystem):
        yield path
        return
    folder = tempfile.mkdtemp(prefix="mtm-")
    try:
        yield folder
        fs.copy_files(folder, path, destination_filesystem=system)
    finally:
        shutil.rmtree(folder)


def _first_line(error: BaseException) -> str:
    return str(error).split("\n", maxsplit=1)[0]
