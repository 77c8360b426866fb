"""A pickle machine that only stores: it imports nothing and calls nothing that a file names.

Why our own and not a subclass of `pickle.Unpickler`: the C one sizes its memo and its buffers by numbers in the file
and cannot be metered; the Python one is private, and calls, hashes and sets the state of whatever lies on its stack.
Here an opcode does only what is written below, and `pickletools`, which never builds objects, decodes its argument.
"""

from __future__ import annotations

import codecs
import pickletools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from triportrait.core.errors import InputError
from triportrait.core.published.reading import ITEM_BYTES, MAX_OPCODES, Reading, Source
from triportrait.core.safe_text import shown

MAX_INTEGER_BITS = 512
PROTOCOLS = range(6)
DAMAGE = (IndexError, TypeError, ValueError, OverflowError, struct.error, MemoryError)


@dataclass(frozen=True, slots=True)
class Global:
    """A name in the file such as `torch.nn.modules.conv.Conv2d`, and our function in its place, where we have one."""

    kind: str
    stand_in: Callable[..., Any] | None = None


@dataclass(slots=True, eq=False, repr=False)
class Record:
    """An object of the file that was not made: what it would have been made from.

    Attributes:
        kind: 'module.name' of the class or function that the file names.
        args, keywords: what it was to be called with.
        state: what was to be its state.
        entries, elements: what was to be stored in it as in a dict or in a list.
    """

    kind: str
    args: tuple[Any, ...] = ()
    keywords: dict[str, Any] | None = None
    state: Any = None
    entries: dict[Any, Any] | None = None
    elements: list[Any] | None = None


class World(Protocol):
    """The owner of a machine, which resolves what a file names."""

    def find(self, module: str, name: str) -> Any:
        """Resolve a name in the file to a value or a `Global`. Raises InputError where no weights file needs it."""

    def persistent(self, identity: Any) -> Any:
        """Return a value that is stored outside of the pickle. Raises InputError."""

    def set_state(self, target: Any, state: Any) -> bool:
        """Give one of our own objects its state; False where it takes none."""


def call(function: Any, arguments: Any, keywords: Any, reading: Reading) -> Any:
    """Call our stand-in for a global, or record the call of one that has none."""
    if type(function) is not Global or type(arguments) is not tuple:
        raise reading.error("calls something that is not a named function")
    if function.stand_in is None:
        return Record(function.kind, arguments, keywords)
    if keywords:
        raise reading.error(f"calls {function.kind} with keywords")
    reading.spend(ITEM_BYTES * len(arguments))  # the star copies them, and one tuple may be used again and again
    return function.stand_in(*arguments)


def checked_key(key: Any, reading: Reading) -> Any:
    """Check the key of a dict or member of a set: its hash must cost nothing and cannot be made to collide.

    A class stands there under its name: checkpoints of Lightning list their callbacks so.
    """
    if type(key) is Global:
        return key.kind
    if key is None or type(key) in (str, bytes, bool) or (type(key) is int and key.bit_length() <= 64):
        return key
    raise reading.error(f"has a dictionary key of type {type(key).__name__}, which no weights file needs")


class Machine:
    """The machine that runs the opcodes of one pickle, from the source's position up to and including its STOP."""

    def __init__(self, source: Source, reading: Reading, world: World) -> None:
        self.source, self.reading, self.world = source, reading, world
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Return the pickled value, in which everything foreign is a `Record` or a `Global`.

        Raises:
            InputError: damaged, not a pickle, or asking for what no weights file needs.
        """
        reading, source = self.reading, self.source
        try:
            while True:
                reading.opcodes -= 1
                if reading.opcodes < 0:
                    raise reading.error(f"has more than {MAX_OPCODES} pickle opcodes")
                start = source.position
                code = source.read(1)
                if code == b".":
                    return self.stack.pop()
                decode, act = OPCODES.get(code, (None, None))
                if act is None:
                    name = _opcode_name(code)
                    raise reading.damaged(f"got {name} at byte {start}, which no weights file uses")
                argument = None if decode is None else decode(source)
                act(self, argument)
        except InputError:
            raise
        except DAMAGE as fault:
            what = shown(f"{type(fault).__name__}: {fault}")
            raise reading.damaged(f"got one that makes no sense at byte {start} ({what})") from fault

    def marked(self) -> list[Any]:
        """Take the values since the last mark from the stack."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def mark(self, _: None) -> None:
        """Begin a group of values."""
        self.below.append(self.stack)
        self.stack = []

    def pop(self, _: None) -> None:
        """Drop the top value, or the mark where a mark is on top."""
        if self.stack:
            self.stack.pop()
        else:
            self.marked()

    def pop_marked(self, _: None) -> None:
        """Drop the values since the last mark."""
        self.marked()

    def take(self, count: int) -> None:
        """Make one tuple of the top `count` values."""
        if len(self.stack) < count:
            raise IndexError("the stack is too short")
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def protocol(self, version: int) -> None:
        """Accept the protocols that exist."""
        if version not in PROTOCOLS:
            raise self.reading.damaged(f"got pickle protocol {version}, newer than any that we know")

    def frame(self, size: int) -> None:
        """Check a frame, which we do not need, against the bytes left."""
        if size > self.source.size - self.source.position:
            raise self.reading.damaged(f"got one that declares a frame of {size} bytes, more than it has")

    def integer(self, value: int) -> None:
        """Push a whole number of modest length."""
        if value.bit_length() > MAX_INTEGER_BITS:
            raise self.reading.error(f"has a whole number of {value.bit_length()} bits")
        self.stack.append(value)

    def put(self, index: int) -> None:
        """Remember the top value under a number."""
        if not 0 <= index <= MAX_OPCODES:
            raise self.reading.error(f"numbers a value {index}, more than the values it can have")
        self.memo[index] = self.stack[-1]

    def get(self, index: int) -> None:
        """Push a remembered value."""
        if index not in self.memo:
            raise self.reading.damaged(f"got one that refers to value {index} before there is one")
        self.stack.append(self.memo[index])

    def append(self, items: list[Any]) -> None:
        """Add values to the list, or record, on top of the stack."""
        target = self.stack[-1]
        if type(target) is Record:
            if target.elements is None:
                target.elements = []
            target = target.elements
        if type(target) is not list:
            raise self.reading.error(f"appends to a {type(target).__name__}")
        target.extend(items)

    def set_items(self, items: list[Any]) -> None:
        """Set keys and values, alternating, in the dict, or record, on top of the stack."""
        target = self.stack[-1]
        if type(target) is Record:
            if target.entries is None:
                target.entries = {}
            target = target.entries
        if type(target) is not dict:
            raise self.reading.error(f"sets an entry of a {type(target).__name__}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[checked_key(key, self.reading)] = value

    def add_items(self, items: list[Any]) -> None:
        """Add members to the set on top of the stack."""
        target = self.stack[-1]
        if type(target) is not set:
            return self.append(items)
        self.reading.spend(64 * len(items))
        target.update(checked_key(item, self.reading) for item in items)

    def new_list(self, _: None) -> None:
        """Push a list of the marked values."""
        items = self.marked()
        self.stack.append(items)

    def new_tuple(self, _: None) -> None:
        """Push a tuple of the marked values."""
        items = self.marked()
        self.stack.append(tuple(items))

    def new_set(self, _: None) -> None:
        """Push an empty set."""
        self.reading.spend(256)
        self.stack.append(set())

    def new_frozenset(self, _: None) -> None:
        """Push a frozen set of the marked values."""
        items = self.marked()
        self.reading.spend(256 + 64 * len(items))
        self.stack.append(frozenset(checked_key(item, self.reading) for item in items))

    def new_dict(self, _: None) -> None:
        """Push a dict of the marked keys and values."""
        items = self.marked()
        self.stack.append({})
        self.set_items(items)

    def find_pair(self, pair: str) -> Any:
        """Return the value for 'module name'."""
        module, _, name = pair.partition(" ")
        return self.world.find(module, name)

    def find_stacked(self, _: None) -> None:
        """Push the value for the module and the name on the stack."""
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(module) is not str:
            raise self.reading.error("names a global by something that is not text")
        self.stack.append(self.world.find(module, name))

    def reduce(self, _: None) -> None:
        """Replace a function and its arguments by the result, which for a foreign function is a record."""
        arguments, function = self.stack.pop(), self.stack.pop()
        self.stack.append(call(function, arguments, None, self.reading))

    def new_with_keywords(self, _: None) -> None:
        """Replace a function, its arguments and keyword arguments by the result."""
        keywords, arguments, function = self.stack.pop(), self.stack.pop(), self.stack.pop()
        if type(keywords) is not dict:
            raise self.reading.error("calls something with keywords that are not a dictionary")
        self.stack.append(call(function, arguments, keywords, self.reading))

    def new_marked(self, _: None) -> None:
        """Replace a marked function and its arguments by the result."""
        function, *arguments = self.marked()
        self.stack.append(call(function, tuple(arguments), None, self.reading))

    def new_named(self, pair: str) -> None:
        """Replace marked arguments by the result of the function that is named here."""
        arguments = tuple(self.marked())
        self.stack.append(call(self.find_pair(pair), arguments, None, self.reading))

    def build(self, _: None) -> None:
        """Store the state of the value below it."""
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) is Record:
            target.state = state
        elif not self.world.set_state(target, state):
            raise self.reading.error(f"sets the state of a {type(target).__name__}")


def _opcode_name(code: bytes) -> str:
    """Name a refused opcode for a sentence."""
    names = [op.name for op in pickletools.opcodes if op.code == code.decode("latin-1")]
    return f"the pickle opcode {names[0]}" if names else f"the byte 0x{code.hex()}"


def _quoted_text(source: Source) -> str:
    """Read quoted text of Python 2, whose bytes stand for themselves (latin-1) as numpy arrays of that time need."""
    line = source.readline()
    if len(line) < 3 or line[:1] not in b"'\"" or line[-2:] != line[:1] + b"\n":
        raise ValueError("a text without its quotes")
    return codecs.escape_decode(line[1:-2])[0].decode("latin-1")  # type: ignore[attr-defined]


def _actions() -> dict[str, Callable[[Machine, Any], None]]:
    """List opcodes and what they do; those that are not here are refused: EXT*, PERSID, out-of-band buffers."""
    push: Callable[[Machine, Any], None] = lambda m, value: m.stack.append(value)  # noqa: E731
    texts = "STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8"
    data = "BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 FLOAT BINFLOAT"
    integers = "INT BININT BININT1 BININT2 LONG LONG1 LONG4"
    return {
        **dict.fromkeys(f"{texts} {data}".split(), push),
        **dict.fromkeys(integers.split(), Machine.integer),
        **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), Machine.put),
        **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), Machine.get),
        **dict.fromkeys(("REDUCE", "NEWOBJ"), Machine.reduce),
        "PROTO": Machine.protocol,
        "FRAME": Machine.frame,
        "NONE": lambda m, _: m.stack.append(None),
        "NEWTRUE": lambda m, _: m.stack.append(True),
        "NEWFALSE": lambda m, _: m.stack.append(False),
        "EMPTY_LIST": lambda m, _: m.stack.append([]),
        "EMPTY_DICT": lambda m, _: m.stack.append({}),
        "EMPTY_TUPLE": lambda m, _: m.stack.append(()),
        "EMPTY_SET": Machine.new_set,
        "LIST": Machine.new_list,
        "TUPLE": Machine.new_tuple,
        "DICT": Machine.new_dict,
        "FROZENSET": Machine.new_frozenset,
        "TUPLE1": lambda m, _: m.take(1),
        "TUPLE2": lambda m, _: m.take(2),
        "TUPLE3": lambda m, _: m.take(3),
        "APPEND": lambda m, _: m.append([m.stack.pop()]),
        "APPENDS": lambda m, _: m.append(m.marked()),
        "SETITEM": lambda m, _: m.set_items([m.stack.pop(), m.stack.pop()][::-1]),
        "SETITEMS": lambda m, _: m.set_items(m.marked()),
        "ADDITEMS": lambda m, _: m.add_items(m.marked()),
        "MARK": Machine.mark,
        "POP": Machine.pop,
        "POP_MARK": Machine.pop_marked,
        "DUP": lambda m, _: m.stack.append(m.stack[-1]),
        "MEMOIZE": lambda m, _: m.put(len(m.memo)),
        "GLOBAL": lambda m, pair: m.stack.append(m.find_pair(pair)),
        "STACK_GLOBAL": Machine.find_stacked,
        "NEWOBJ_EX": Machine.new_with_keywords,
        "OBJ": Machine.new_marked,
        "INST": Machine.new_named,
        "BUILD": Machine.build,
        "BINPERSID": lambda m, _: m.stack.append(m.world.persistent(m.stack.pop())),
    }


def _opcodes() -> dict[bytes, tuple[Callable[[Any], Any] | None, Callable[[Machine, Any], None]]]:
    """List opcode bytes with the reader of their argument and what they do."""
    table: dict[bytes, tuple[Callable[[Any], Any] | None, Callable[[Machine, Any], None]]] = {}
    actions = _actions()
    for op in pickletools.opcodes:
        if op.name in actions:
            decode: Callable[[Any], Any] | None = op.arg.reader if op.arg is not None else None
            table[op.code.encode("latin-1")] = (_quoted_text if op.name == "STRING" else decode, actions[op.name])
    return table


OPCODES = _opcodes()
