"""What is on a disk after power is lost, from a log of system calls.

Files and folders have a state that processes see and one that survives: a file's content survives once it is
synced, a name once its folder is. Everything else may survive or not; three ways to lose it are built here.
"""

import dataclasses
import re
from pathlib import Path, PurePosixPath

TRACED = (
    "openat,mkdir,write,pwrite64,fsync,fdatasync,rename,renameat2,unlink,unlinkat,rmdir,ftruncate,"
    "copy_file_range,sendfile,link,symlink"
)
UNKNOWN_TO_THE_MODEL = {"copy_file_range", "sendfile", "link", "symlink"}
LOSSES = ("unsynced data and names are lost", "everything survives", "names survive, data half")


def strace_command(log):
    return ["strace", "-f", "-qq", "-y", "-xx", "-s", "100000000", "-o", str(log), "-e", f"trace={TRACED}"]


def unhex(text):
    return bytes.fromhex(text.replace("\\x", ""))


@dataclasses.dataclass
class File:
    content: bytes = b""
    synced: bytes = b""


@dataclasses.dataclass
class Folder:
    entries: dict = dataclasses.field(default_factory=dict)
    synced: dict = dataclasses.field(default_factory=dict)


class Disk:
    """The folder `root` of a disk, empty at first."""

    def __init__(self, root):
        self.root, self.folder = PurePosixPath(root), Folder()

    def parts(self, path):
        path = PurePosixPath(path)
        return path.relative_to(self.root).parts if path.is_relative_to(self.root) else None

    def find(self, parts):
        node = self.folder
        for part in parts:
            if not isinstance(node, Folder) or part not in node.entries:
                return None
            node = node.entries[part]
        return node

    def parent(self, parts):
        return self.find(parts[:-1])

    def mkdir(self, path):
        if parts := self.parts(path):
            self.parent(parts).entries[parts[-1]] = Folder()

    def open(self, path, flags):
        if not (parts := self.parts(path)) or "O_DIRECTORY" in flags:
            return
        folder = self.parent(parts)
        if "O_CREAT" in flags and parts[-1] not in folder.entries:
            folder.entries[parts[-1]] = File()
        file = folder.entries.get(parts[-1])
        if "O_TRUNC" in flags and isinstance(file, File):
            file.content = b""

    def write(self, path, data, offset=None):
        if parts := self.parts(path):
            file = self.find(parts)
            at = len(file.content) if offset is None else offset  # no file is written over but at an offset
            file.content = file.content[:at].ljust(at, b"\0") + data + file.content[at + len(data) :]

    def truncate(self, path, size):
        if parts := self.parts(path):
            file = self.find(parts)
            file.content = file.content[:size].ljust(size, b"\0")

    def sync(self, path):
        parts = self.parts(path)
        if parts is None or (node := self.find(parts)) is None:
            return
        if isinstance(node, File):
            node.synced = node.content
        else:
            node.synced = dict(node.entries)

    def rename(self, old, new, exchange=False):
        old, new = self.parts(old), self.parts(new)
        if old is None and new is None:
            return
        source, target = self.parent(old), self.parent(new)
        if exchange:
            source.entries[old[-1]], target.entries[new[-1]] = target.entries[new[-1]], source.entries[old[-1]]
        else:
            target.entries[new[-1]] = source.entries.pop(old[-1])

    def remove(self, path):
        if parts := self.parts(path):
            self.parent(parts).entries.pop(parts[-1], None)

    def survivors(self, loss):
        """{relative path: bytes, or None for a folder} after a crash now."""
        names_survive = loss != LOSSES[0]
        out = {}

        def content(file):
            if loss == LOSSES[1]:
                return file.content
            if loss == LOSSES[0] or file.content == file.synced:
                return file.synced
            return file.content[: (len(file.synced) + len(file.content)) // 2]

        def walk(folder, prefix):
            for name, node in (folder.entries if names_survive else folder.synced).items():
                if isinstance(node, File):
                    out[prefix + name] = content(node)
                else:
                    out[prefix + name] = None
                    walk(node, prefix + name + "/")

        walk(self.folder, "")
        return out


CALL = re.compile(r"^\d+ +(\w+)\((.*)\) += (-?\d+)")
STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
DESCRIPTOR = re.compile(r"^(\d+)<([^>]*)>")


def path_of(arguments):
    """The path behind the descriptor that a call's arguments begin with."""
    return DESCRIPTOR.match(arguments)[2]


def decoded(text):
    return unhex(text).decode() if text.startswith("\\x") else text


def replay(log, disk):
    """Carries out the calls of a log one by one; yields after each, with what was written to the screen."""
    for line in Path(log).read_text(encoding="ascii").splitlines():
        found = CALL.match(line)
        if not found or int(found[3]) < 0:
            continue
        name, arguments, result = found[1], found[2], int(found[3])
        strings = [unhex(text) for text in STRING.findall(arguments)]
        screen = ""
        match name:
            case "openat":
                disk.open(decoded(line[line.rindex("<") + 1 : line.rindex(">")]), arguments)
            case "mkdir":
                disk.mkdir(strings[0].decode())
            case "write" if arguments.startswith("2<"):
                screen = strings[0][:result].decode(errors="replace")
            case "write":
                disk.write(decoded(path_of(arguments)), strings[0][:result])
            case "pwrite64":
                disk.write(
                    decoded(path_of(arguments)), strings[0][:result], int(arguments.rsplit(",", 1)[1])
                )
            case "ftruncate":
                disk.truncate(decoded(path_of(arguments)), int(arguments.rsplit(",", 1)[1]))
            case "fsync" | "fdatasync":
                disk.sync(decoded(path_of(arguments)))
            case "rename" | "renameat2":
                disk.rename(strings[0].decode(), strings[1].decode(), "RENAME_EXCHANGE" in arguments)
            case "unlink" | "rmdir":
                disk.remove(strings[0].decode())
            case "unlinkat":
                folder = decoded(path_of(arguments)) if DESCRIPTOR.match(arguments) else ""
                disk.remove(str(PurePosixPath(folder) / strings[0].decode()))
            case _ if name in UNKNOWN_TO_THE_MODEL and any(
                disk.parts(decoded(path)) for path in re.findall(r"<([^>]*)>", arguments)
            ):
                raise AssertionError(f"the model of the disk does not know {line[:200]}")
        yield screen
