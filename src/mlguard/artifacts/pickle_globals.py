"""Reads a pickle, or what joblib writes, without running anything: which globals it names, and what it does with them.

The instructions are followed by the reader of Python's own :mod:`pickle` from which joblib's reader is made, with every
instruction replaced that would import, call or change something other than a list or a dict of the file's own. So what
is read here is what will be read when the file is loaded; there is no second parser with another opinion. Where an
object would come to be there is a :class:`~mlguard.artifacts._symbols.Made`, and what NumPy and scikit-learn would be
called with is looked at by their rules.
"""

import pickle
import sys
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from mlguard.artifacts._numpy_pickles import NUMPY_RULES, build_joblib_array, is_plain_scalar
from mlguard.artifacts._pickle_contents import PickleContents
from mlguard.artifacts._pickle_rules import Reconstructor, Rule, modern_name
from mlguard.artifacts._pickle_steps import step_of
from mlguard.artifacts._private_copy import PrivateCopy
from mlguard.artifacts._sklearn_pickles import SKLEARN_RULES
from mlguard.artifacts._symbols import Array, Global, Made, MisuseError, Name
from mlguard.artifacts.allowed_globals import SKLEARN_ESTIMATORS

JOBLIB_WRAPPER: Name = ("joblib.numpy_pickle", "NumpyArrayWrapper")

_RECONSTRUCTOR: Name = ("copyreg", "_reconstructor")
#: What is wrong where a rule has looked at something that was not yet as it would be.
CHANGED_LATER = "a list or a dict is changed after an object was given it"
_COPIES = 2  # of what the file holds: as a text by protocols before 3, and as what is made of it
_BYTES_EACH = 100  # that an instruction may take
_PLAIN_KEYS = (str, int, float, bytes, bool, type(None))


def read_pickle(copy: PrivateCopy, *, max_instructions: int) -> PickleContents:
    """Read everything, also what stands behind the end of the first pickle.

    Args:
        copy: The file, with no compression.
        max_instructions: After how many it is enough: each may make an object many times its size.
    """
    contents = PickleContents(room=_COPIES * len(copy.view) + _BYTES_EACH * max_instructions)
    stream, content = copy.stream(), copy.view
    count = 0
    while stream.tell() < len(content):
        if count:
            contents.add_problem("something stands behind the end of the pickle")
        reader = _Reader(stream, contents, content, max_instructions - count)
        try:
            reader.load()
        except MisuseError as misuse:
            contents.add_problem(str(misuse))
            contents.is_whole = False
            break
        except Exception as error:  # the reader's own code, on builtin types alone
            contents.add_problem(f"the pickle is broken ({type(error).__name__})")
            contents.is_whole = False
            break
        finally:
            count += reader.count
    if not count:
        contents.add_problem("the file is empty")
    return contents


class _Reader(pickle._Unpickler):  # joblib's reader is made from it
    """Follows the instructions of one pickle."""

    pop_mark: Callable[[], list[Any]]
    memo: dict[int, Any]

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def __init__(
        self, stream: Any, contents: PickleContents, content: memoryview, most: int, *, nested: bool = False
    ) -> None:
        super().__init__(stream)
        self.stream = stream
        self.contents = contents
        self.content = content
        self.count = 0
        self.unfinished: list[Made] = []
        self._looked_at: dict[int, Any] = {}  # lists and dicts by their ids, which are theirs as long as they are here
        self._most = most
        self._nested = nested

    def load(self) -> Any:
        """Follow the instructions to the end.

        Returns:
            What stands for the object.
        """
        frames = pickle._Unframer(self._file_read, self._file_readline)  # type: ignore[attr-defined]  # private
        self._unframer = frames
        self.read, self.readinto, self.readline = frames.read, frames.readinto, frames.readline
        self.metastack: list[Any] = []
        self.stack: list[Any] = []
        self.append = self.stack.append
        self.proto = 0
        read, dispatch, most = self.read, self.dispatch, self._most
        try:
            while self.count < most:
                self.count += 1
                dispatch[read(1)[0]](self)
        except pickle._Stop as stop:  # type: ignore[attr-defined]  # private, and there
            if any(not made.built for made in self.unfinished):
                self.contents.add_problem("an object is not finished")
            if frames.current_frame and frames.current_frame.read(1):
                self.contents.add_problem("something stands behind the end of the pickle")
            return stop.value
        raise MisuseError("the pickle has more instructions than max_instructions=...")

    # Globals ---------------------------------------------------------------------------------------------------------

    def find_class(self, module: str, name: str) -> Global:
        """Stand-in for the import. Called for each global that the file names."""
        pair = modern_name(module, name, self.proto)
        self.contents.names.append(pair)
        return Global(pair)

    def _load_extension(self) -> None:
        self.contents.add_problem("an extension code (EXT), which stands for a global that the file does not name")
        self.append(Made(None))

    def _load_ext1(self) -> None:
        self.read(1)
        self._load_extension()

    dispatch[pickle.EXT1[0]] = _load_ext1

    def _load_ext2(self) -> None:
        self.read(2)
        self._load_extension()

    dispatch[pickle.EXT2[0]] = _load_ext2

    def _load_ext4(self) -> None:
        self.read(4)
        self._load_extension()

    dispatch[pickle.EXT4[0]] = _load_ext4

    def persistent_load(self, _pid: Any) -> Made:
        """Stand-in for an object that the file does not hold."""
        self.contents.add_problem("a persistent id, which stands for an object outside of the file")
        return Made(None)

    def _load_buffer(self) -> None:
        raise MisuseError("an out-of-band buffer, which is not in the file")

    dispatch[pickle.NEXT_BUFFER[0]] = _load_buffer
    dispatch[pickle.READONLY_BUFFER[0]] = _load_buffer

    # Calls -----------------------------------------------------------------------------------------------------------

    def _load_reduce(self) -> None:
        self.contents.steps.append(step_of(self))
        args = self.stack.pop()
        self.stack[-1] = self._make(self.stack[-1], args, new=False)

    dispatch[pickle.REDUCE[0]] = _load_reduce

    def _load_newobj(self) -> None:
        self.contents.steps.append(step_of(self))
        args = self.stack.pop()
        self.stack[-1] = self._make(self.stack[-1], args, new=True)

    dispatch[pickle.NEWOBJ[0]] = _load_newobj

    def _load_newobj_ex(self) -> None:
        self.contents.steps.append(step_of(self))
        options = self.stack.pop()
        args = self.stack.pop()
        if options != {} and _rule(self.stack[-1]):
            self.contents.add_problem(f"{self.stack[-1]} is made with options")
        self.stack[-1] = self._make(self.stack[-1], args, new=True)

    dispatch[pickle.NEWOBJ_EX[0]] = _load_newobj_ex

    def _instantiate(self, what: Any, args: Any) -> None:
        """INST and OBJ, which no Python 3 writes."""
        self.contents.add_problem("an instance of a class of Python 2")
        self.append(Made(what.name if isinstance(what, Global) else None, tuple(args)))

    def _make(self, what: Any, args: Any, *, new: bool) -> Any:
        rule = _rule(what)
        if not isinstance(what, Global) or type(args) is not tuple:
            self.contents.add_problem("something other than a global is called")
            return Made(None)
        if rule is None:
            return Made(what.name, args)
        self._spend(args)
        try:
            made = rule.new(args) if new else rule.call(args)
        except MisuseError as misuse:
            self.contents.add_problem(f"{what}: {misuse}")
            return Made(what.name, args)
        if isinstance(made, Made) and rule.must_be_built:
            self.unfinished.append(made)
        return made

    def _spend(self, members: Iterable[Any]) -> None:
        """What is in the file once can be copied as often as an instruction says so."""
        for one in members:
            if type(one) in (str, bytes):
                self.contents.room -= len(one)
            elif type(one) is list:
                self.contents.room -= 8 * len(one)  # bytes of a reference
        if self.contents.room < 0:
            raise MisuseError("copies of what the file holds take more memory than max_instructions=... allows")

    # State -----------------------------------------------------------------------------------------------------------

    def _load_build(self) -> None:
        self.contents.steps.append(step_of(self))
        state = self.stack.pop()
        made = self.stack[-1]
        if not isinstance(made, Made) or made.name is None:
            self.contents.add_problem("something that is no object gets a state")
            return
        rule = RULES.get(made.name)
        if rule is None:
            made.state, made.built = state, True
            return
        members = state.values() if type(state) is dict else state if type(state) is tuple else ()
        self._spend(members)
        try:
            if made.built:
                raise MisuseError("an object gets its state twice")
            if made.name == JOBLIB_WRAPPER:
                self.stack[-1] = self._read_array(made, state)
            else:
                rule.build(made, state)
        except MisuseError as misuse:
            self.contents.add_problem(f"{Global(made.name)}: {misuse}")
            if made.name == JOBLIB_WRAPPER:
                raise MisuseError("where the array ends cannot be told") from None
        made.state, made.built = state, True
        self._looked_at.update((id(one), one) for one in (state, *members) if type(one) in (list, dict))

    dispatch[pickle.BUILD[0]] = _load_build

    def _read_array(self, wrapper: Made, state: Any) -> Array:
        """What joblib does with a wrapper that has got its state: reads the bytes that follow."""
        if self._nested:
            raise MisuseError("an array of joblib's within an array of objects")
        self.contents.has_joblib_arrays = True
        array = build_joblib_array(wrapper, state, self.content, self.stream)
        if array.dtype is not None and array.dtype.holds_objects:
            inner = _Reader(self.stream, self.contents, self.content, self._most - self.count, nested=True)
            try:
                read = inner.load()
            finally:
                self.count += inner.count
            if not isinstance(read, Array) or read.dtype is None or not read.dtype.holds_objects:
                raise MisuseError("what follows is no array of objects")
            return read
        return array

    # Containers ------------------------------------------------------------------------------------------------------

    def _load_append(self) -> None:
        value = self.stack.pop()
        self._extend(self.stack[-1], [value])

    dispatch[pickle.APPEND[0]] = _load_append

    def _load_appends(self) -> None:
        values = self.pop_mark()
        self._extend(self.stack[-1], values)

    dispatch[pickle.APPENDS[0]] = _load_appends

    def _extend(self, target: Any, values: list[Any]) -> None:
        if type(target) is list and id(target) not in self._looked_at:
            target.extend(values)
        else:
            self._change(target)

    def _load_setitem(self) -> None:
        value = self.stack.pop()
        key = self.stack.pop()
        self._update(self.stack[-1], [key, value])

    dispatch[pickle.SETITEM[0]] = _load_setitem

    def _load_setitems(self) -> None:
        items = self.pop_mark()
        self._update(self.stack[-1], items)

    dispatch[pickle.SETITEMS[0]] = _load_setitems

    def _load_dict(self) -> None:
        items = self.pop_mark()
        made: dict[Any, Any] = {}
        self._update(made, items)
        self.append(made)

    dispatch[pickle.DICT[0]] = _load_dict

    def _update(self, target: Any, items: list[Any]) -> None:
        if len(items) % 2:
            raise MisuseError("a key without a value")
        pairs = [(key, value) for key, value in zip(items[::2], items[1::2], strict=True) if self._is_key(key)]
        if type(target) is dict and id(target) not in self._looked_at:
            target.update(pairs)
        else:
            self._change(target)

    def _load_additems(self) -> None:
        items = filter(self._is_key, self.pop_mark())
        if type(self.stack[-1]) is set:
            self.stack[-1].update(items)
        else:
            self._change(self.stack[-1])

    dispatch[pickle.ADDITEMS[0]] = _load_additems

    def _load_frozenset(self) -> None:
        members = frozenset(filter(self._is_key, self.pop_mark()))
        self.append(members)  # which is looked up only here: until then it belongs to the stack above the mark

    dispatch[pickle.FROZENSET[0]] = _load_frozenset

    def _change(self, target: Any) -> None:
        """Something is put into an object, a method of which would be called, or into what was looked at."""
        if id(target) in self._looked_at:
            self.contents.add_problem(CHANGED_LATER)
        elif not isinstance(target, Made) or target.name in RULES:
            self.contents.add_problem("something is put into an object that is no list, dict or set")

    def _is_key(self, key: Any) -> bool:
        """Whether finding it takes no time: large integers can all have one hash, as tuples and complex numbers can."""
        if isinstance(key, Made) and key.name in RULES:
            good = is_plain_scalar(key)
        else:
            good = type(key) in _PLAIN_KEYS or isinstance(key, Global | Made)
        if not good:
            self.contents.add_problem("a key of a dict or a set is neither a text nor a number")
            return False
        if type(key) is int and abs(key) >= sys.hash_info.modulus:
            self.contents.add_problem("a key of a dict or a set is too large a number")
            return False
        return True

    # Sizes -----------------------------------------------------------------------------------------------------------

    def _load_put(self) -> None:
        """PUT, whose number is a text of any length."""
        index = int(self.readline()[:-1])
        if not 0 <= index <= self._most:
            raise MisuseError("a number in the memo is larger than max_instructions=...")
        self.memo[index] = self.stack[-1]

    dispatch[pickle.PUT[0]] = _load_put

    def _load_bytearray8(self) -> None:
        size = int.from_bytes(self.read(8), "little")
        if size > len(self.content):
            raise MisuseError("a buffer is larger than the file")
        values = bytearray(self.read(size))
        if len(values) != size:
            raise MisuseError("a buffer is larger than the file")
        self.append(values)

    dispatch[pickle.BYTEARRAY8[0]] = _load_bytearray8


RULES: dict[Name, Rule] = {name: Rule(name) for name in SKLEARN_ESTIMATORS} | NUMPY_RULES | SKLEARN_RULES
RULES[_RECONSTRUCTOR] = Reconstructor(_RECONSTRUCTOR, RULES)


def _rule(what: Any) -> Rule | None:
    return RULES.get(what.name) if isinstance(what, Global) else None
