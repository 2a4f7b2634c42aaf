"""Model files from strangers and from bad disks: refused in one line, without memory or code."""

from __future__ import annotations

import io
import json
import os
import pickle
import tracemalloc
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from forged import edited, forge, laid_out, parts, sealed
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save
from shell import Shell

import flowcei
from flowcei.cli.info import _model_facts
from flowcei.errors import DataError, FlowceiError, UsageError
from flowcei.reconstruction.loading import load
from flowcei.storage.modelfile import read_model

if TYPE_CHECKING:
    from collections.abc import Callable

GOLDEN = Path(__file__).parents[1] / "data" / "models-v1" / "cinn-glow.safetensors"
NAME = "stranger.safetensors"
MEMORY = 200 << 20  # bytes; what the largest header that is read at all may take
EVENTS = np.array([[[9.0, 1, 0], [80, -30, 2], [-89, 29, -2]], [[3, -5, 1], [-70, 30, 0], [67, -25, -1]]])
PLACES = np.array([[[0.0, 0, 0], [-1.9, -1.2, 0], [2.8, 0.9, 0]]] * 2)[:, None]


@dataclass(frozen=True)
class Sound:
    """A model that is sound, in pieces."""

    card: dict[str, Any]
    tensors: dict[str, np.ndarray]
    whole: bytes

    def said(self, place: str, value: object) -> bytes:
        """Return a file that says something else at one place, its checksums right."""
        return self.text(json.dumps(edited(self.card, place, value)))

    def text(self, card: str) -> bytes:
        """Return a file with any text for its description."""
        return save(self.tensors, sealed(card, self.tensors))

    def weighs(self, name: str, change: Callable[[np.ndarray], np.ndarray]) -> bytes:
        """Return a file with another tensor, its checksums right."""
        tensors = self.tensors | {name: change(self.tensors[name].copy())}
        return save(tensors, sealed(self.card, tensors))


@pytest.fixture(scope="module")
def sound_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a tiny flow, of today's format."""
    path = tmp_path_factory.mktemp("sound") / NAME
    load(GOLDEN).save(path)
    return path


@pytest.fixture(scope="module")
def sound(sound_file: Path) -> Sound:
    """Return the same in pieces."""
    return Sound(*parts(sound_file), sound_file.read_bytes())


class _Bomb:
    """What a malicious pickle does when it is loaded."""

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return (open, ("was-run", "w"))


def _zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("data.pkl", pickle.dumps(_Bomb()))
    return buffer.getvalue()


def _torch_saved() -> bytes:
    buffer = io.BytesIO()
    torch.save({"model": _Bomb()}, buffer)
    return buffer.getvalue()


def _one(**claims: object) -> bytes:
    """Return a file with one tensor of eight bytes that claims something."""
    return laid_out({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | claims}, bytes(8))


def _two(first: list[int], second: list[int], room: int = 16) -> bytes:
    claims = [{"dtype": "F32", "shape": [2], "data_offsets": offsets} for offsets in (first, second)]
    return laid_out(dict(zip("ab", claims, strict=True)), bytes(room))


def _flipped(raw: bytes, at: int) -> bytes:
    return raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]


def _many(count: int) -> bytes:
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    return laid_out({str(k): empty for k in range(count)})


def _busy(s: Sound) -> bytes:
    """Return a small file whose options would build millions of layers."""
    tensors = s.tensors | {"model.wide": np.zeros((1, 4096), np.float32)}
    options = s.card["options"] | {"couplings": 4096, "depth": 4096}
    return save(tensors, sealed(s.card | {"options": options}, tensors))


def _crowd(s: Sound) -> bytes:
    """Return a molecule of 100,000 atoms, whose distances would fill 240 GB."""
    return s.said("molecule.symbols", ["H"] * 100_000)


FILES: dict[str, tuple[Callable[[Sound], bytes], str]] = {
    "empty": (lambda _: b"", "empty"),
    "shorter than a length": (lambda _: b"\x01\0\0", "damaged"),
    "text": (lambda _: b"not a model\n" * 99, "damaged"),
    "zeros": (lambda _: bytes(4096), "damaged"),
    "header of 2^63 bytes": (lambda _: laid_out(b"{}", length=1 << 63), "header of"),
    "header longer than the file": (lambda _: laid_out(b"{}", length=3), "header of"),
    "header of 17 MiB": (lambda _: laid_out(b"{}" + b" " * (17 << 20)), "header of"),
    "no header": (lambda _: laid_out(b""), "no JSON"),
    "header not UTF-8": (lambda _: laid_out(b'{"\xff": 1}'), "utf-8"),
    "header a list": (lambda _: laid_out([]), "damaged"),
    "header 100,000 deep": (lambda _: laid_out(b"[" * 100_000), "within one another"),
    "header 40 deep": (lambda _: laid_out(b"[" * 40 + b"]" * 40), "damaged"),
    "header of millions of lists": (lambda _: laid_out(b"[" + b"[]," * 2_000_000 + b"[]]"), "values"),
    "a tensor twice": (lambda _: laid_out(b'{"a": {}, "a": {}}'), "twice"),
    "NaN in the header": (lambda _: laid_out(b'{"a": NaN}'), "not finite"),
    "20,001 tensors": (lambda _: _many(20_001), "20001 tensors"),
    # The next are the library's to refuse; one of each kind shows that it is asked.
    "tensors overlap": (lambda _: _two([0, 8], [4, 12], 12), "damaged"),
    "a hole between tensors": (lambda _: _two([0, 8], [12, 20], 20), "damaged"),
    "bytes that no tensor has": (lambda _: _two([0, 8], [8, 16], 17), "damaged"),
    "tensors beyond the end": (lambda _: _two([0, 8], [8, 16], 12), "damaged"),
    "offsets of 10^30": (lambda _: _one(data_offsets=[10**30, 10**30 + 8]), "damaged"),
    "shape of exabytes": (lambda _: _one(shape=[1 << 30, 1 << 30]), "damaged"),
    "negative shape": (lambda _: _one(shape=[-1, -2]), "damaged"),
    "empty but vast": (lambda _: _one(shape=[1 << 29, 0], data_offsets=[0, 0]), "damaged"),
    "unknown type": (lambda _: _one(dtype="Q5"), "damaged"),
    "half precision": (
        lambda s: save(s.tensors | {"a": np.zeros(2, np.float16)}, sealed(s.card, s.tensors)),
        "F32",
    ),
    "name with a bell": (
        lambda _: laid_out({"\a": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}),
        "called",
    ),
    "metadata a list": (lambda _: laid_out({"__metadata__": []}), "damaged"),
    "metadata a number": (lambda _: laid_out({"__metadata__": {"flowcei": 1}}), "damaged"),
    "somebody else's": (lambda s: save(s.tensors, {"format": "pt"}), "not a model of flowcei"),
    "more metadata": (lambda s: save(s.tensors, sealed(s.card, s.tensors) | {"x": ""}), "unknown metadata"),
    "pickle": (lambda _: pickle.dumps(_Bomb()), "damaged"),
    "torch file": (lambda _: _torch_saved(), "damaged"),
    "zip": (lambda _: _zipped(), "damaged"),
    "cut in half": (lambda s: s.whole[: len(s.whole) // 2], "damaged"),
    "last byte missing": (lambda s: s.whole[:-1], "damaged"),
    "a byte too many": (lambda s: s.whole + b"\0", "damaged"),
    "a weight flipped": (
        lambda s: _flipped(s.whole, len(s.whole) - 3),
        "weights do not match",
    ),
    "a mass flipped": (lambda s: _flipped(s.whole, s.whole.index(b"21894")), "description does not match"),
    "no seal": (lambda s: save(s.tensors, {"flowcei": json.dumps(s.card)}), "lost its checksum"),
    "no checksum": (lambda s: s.said("checksum", None), "lost its checksum"),
    "checksum a word": (lambda s: s.said("checksum", "right"), "at checksum"),
    "a key twice": (lambda s: s.text('{"noise": 1, "noise": 2}'), "twice"),
    "infinity": (lambda s: s.text('{"a": -Infinity}'), "not finite"),
    "1e999": (lambda s: s.text('{"a": 1e999}'), "not finite"),
    "5,000 digits": (lambda s: s.text('{"a": %s}' % ("9" * 5000)), "digits"),
    "description 5,000 deep": (lambda s: s.text('{"a":' * 5000 + "1" + "}" * 5000), "within one another"),
    "description of the future": (lambda s: s.said("format_version", 3), "upgrade"),
    "version true": (lambda s: s.said("format_version", True), "format_version"),
    "an escape in the name": (lambda s: s.said("training.name", "\x1b[2J"), "cannot be printed"),
    "a line break in the name": (lambda s: s.said("molecule.name", "a\nflowcei: all well"), "be printed"),
    "half a surrogate": (lambda s: s.said("architecture", "\ud800"), "cannot be printed"),
    "a name of a megabyte": (lambda s: s.said("training.name", "a" * 1_000_000), "too long"),
    "an escape in a key": (lambda s: s.said("training", {"\x1b[2J": 1}), "cannot be printed"),
    "a number of 10^200": (lambda s: s.said("training.figures", {"a": 1e200}), "absurd size"),
    "noise backwards": (lambda s: s.said("noise", {"low": 0.5, "high": 0.1, "relative": True}), "noise"),
    "noise above all": (lambda s: s.said("noise.high", 2.0), "noise"),
    "noise a word": (lambda s: s.said("noise.low", "0.1"), "at noise.low"),
    "seen a text": (lambda s: s.said("training.seen", "abc"), "at training.seen"),
    "seen null": (lambda s: s.said("training.seen", None), "at training.seen"),
    "seen without low": (lambda s: s.said("training.seen", {"high": 1}), "at training.seen"),
    "seen not square": (lambda s: s.said("training.seen.precision", [[1.0]]), "at training.seen"),
    "round trip abc": (lambda s: s.said("training.round_trip_error", "abc"), "round_trip_error"),
    "round trip below 0": (lambda s: s.said("training.round_trip_error", -1.0), "round_trip_error"),
    "parameters a word": (lambda s: s.said("training.parameters", "many"), "training.parameters"),
    "rate a list": (lambda s: s.said("training.rows_per_second", []), "rows_per_second"),
    "prior a text": (lambda s: s.said("training.prior", "broad"), "training.prior"),
    "seed a text": (lambda s: s.said("training.seed", "one"), "training.seed"),
    "digest a path": (lambda s: s.said("training.data", {"digest": "/etc"}), "training.data"),
    "versions a list": (lambda s: s.said("training.versions", ["2"]), "training.versions"),
    "options nested": (lambda s: s.said("options.hidden", {"a": 1}), "at options"),
}
"""Name -> bytes of a file, and what the refusal says."""

BUILT: dict[str, tuple[Callable[[Sound], bytes], str]] = {
    "millions of layers": (_busy, "far more than"),
    "permutation out of range": (
        lambda s: s.weighs("model.couplings.blocks.module_list.0.perm", lambda t: t + 10**6),
        "no permutation",
    ),
    "permutation with a repeat": (
        lambda s: s.weighs("model.couplings.blocks.module_list.0.perm", np.zeros_like),
        "no permutation",
    ),
    "permutation with another inverse": (
        lambda s: s.weighs("model.couplings.blocks.module_list.0.perm_inv", lambda t: np.roll(t, 1)),
        "no permutation",
    ),
    "a reflection without a third axis": (lambda s: s.said("frame.reflect", True), "no frame"),
    "deviation 0": (lambda s: s.weighs("chart.scale", np.zeros_like), "not above 0"),
    "deviation below 0": (lambda s: s.weighs("condition.scale", lambda t: -t), "not above 0"),
    "NaN": (lambda s: s.weighs("chart.mean", lambda t: t + np.nan), "not finite"),
    "weights of another type": (lambda s: s.weighs("chart.mean", lambda t: t.astype(np.float32)), "float32"),
    "latents of whole numbers": (
        lambda s: s.weighs("model.latents.mean", lambda t: t.astype(np.int64)),
        "int64",
    ),
    "a crowd": (_crowd, "100000 symbols"),
    "prior of unknown kind": (lambda s: s.said("training.prior", {"kind": "magic"}), "kind"),
    "prior without its numbers": (lambda s: s.said("training.prior", {"kind": "ball"}), "does not fit"),
    "prior of empty atoms": (
        lambda s: s.said("training.prior", {"kind": "internal", "zmatrix": [{}, {}, {}]}),
        "zmatrix",
    ),
    "ensemble of another molecule": (
        lambda s: s.said("training.prior", {"kind": "ensemble", "geometries": [[[0, 0, 0]]]}),
        "ensemble",
    ),
    "trained range of another width": (
        lambda s: s.said(
            "training.seen", {"low": 0.0, "high": 1.0, "mean": [0.0], "precision": [[1.0]], "reach": 1.0}
        ),
        "trained range",
    ),
}
"""Those whose damage shows only when the model is built: `flowcei info` may still tell of them."""


def _refused(path: Path, what: str, *read: Callable[[Path], object]) -> None:
    """Assert one line that names the file and says what is wrong, in bounded memory."""
    for call in read:
        tracemalloc.start()
        try:
            with pytest.raises((DataError, UsageError), match=what) as caught:
                call(path)
            assert tracemalloc.get_traced_memory()[1] < MEMORY
        finally:
            tracemalloc.stop()
        said = str(caught.value)
        assert said.isprintable()
        assert path.name in said
        assert len(said) < 600


@pytest.fixture
def flow(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Shell:
    """Return the command line, in an empty folder with two events."""
    monkeypatch.chdir(tmp_path)
    header = ",".join(f"p{ion}{axis}" for ion in "cos" for axis in "xyz")
    np.savetxt("e.csv", EVENTS.reshape(2, 9), delimiter=",", header=header, comments="")
    return Shell(monkeypatch, capsys)


def _ends(flow: Shell, codes: set[int], *words: str) -> None:
    """Assert the exit code, one line on stderr, nothing on stdout and no new file."""
    before = set(Path().iterdir())
    assert flow(*words) in codes
    assert flow.err.count("\n") == 1
    assert flow.err.startswith("flowcei: error: ")
    assert not flow.out
    assert set(Path().iterdir()) == before


@pytest.mark.parametrize("case", FILES)
def test_a_hostile_file_is_refused(case: str, sound: Sound, flow: Shell) -> None:
    """By the library and by both commands; nothing in it is run and nothing is written."""
    content, what = FILES[case]
    Path(NAME).write_bytes(content(sound))
    _refused(Path(NAME), what, load, read_model)
    _ends(flow, {3}, "info", NAME)
    _ends(flow, {3}, "sample", "--momenta", "e.csv", "--model", NAME)
    assert not Path("was-run").exists()


@pytest.mark.parametrize("case", BUILT)
def test_a_model_that_would_fail_later_is_refused(case: str, sound: Sound, flow: Shell) -> None:
    """What fits its checksums and its shapes, but could not be used."""
    content, what = BUILT[case]
    Path(NAME).write_bytes(content(sound))
    _refused(Path(NAME), what, load)
    _ends(flow, {3}, "sample", "--momenta", "e.csv", "--model", NAME)
    assert flow("info", NAME) in {0, 3}


def test_what_the_cases_are_made_from_is_sound(sound: Sound, flow: Shell) -> None:
    """Put together again unchanged it loads, and a symbolic link to it too."""
    forge(Path(NAME), sound.card, sound.tensors)
    Path("link.safetensors").symlink_to(NAME)
    for name in (NAME, "link.safetensors"):
        assert load(name).architecture == "cinn"
        assert flow("info", name) == 0
        assert (
            flow("sample", "--momenta", "e.csv", "--model", name, "-n", "2", "--overwrite", "--keep-flagged")
            == 0
        )


@pytest.mark.parametrize("kind", ["pipe", "device", "link to a device", "folder", "nothing"])
def test_what_is_no_file_is_refused_without_reading(kind: str, flow: Shell) -> None:
    """A pipe that nobody writes to and an endless device: neither is opened."""
    if kind == "pipe":
        os.mkfifo(NAME)
    elif kind == "link to a device":
        Path(NAME).symlink_to("/dev/zero")
    elif kind == "folder":
        Path(NAME).mkdir()
    name = "/dev/zero" if kind == "device" else NAME
    with pytest.raises(UsageError):
        load(name)
    with pytest.raises(UsageError):
        read_model(Path(name))
    _ends(flow, {2}, "sample", "--momenta", "e.csv", "--model", name)
    if kind != "device":  # that has no suffix of a model
        _ends(flow, {2}, "info", name)


def test_a_vast_file_is_not_read(tmp_path: Path) -> None:
    """A gigabyte of nothing, which takes no room on the disk, takes none in memory."""
    path = tmp_path / NAME
    with path.open("wb") as file:
        file.truncate((1 << 30) + 1)
    _refused(path, "1 GiB", load, read_model)
    with path.open("wb") as file:
        file.write(laid_out({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}))
        file.truncate(1 << 30)
    _refused(path, "damaged", load, read_model)


FLIP = st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255))
"""Where in a file, and which bits."""


def _answers(path: Path) -> np.ndarray:
    model = load(path)
    model.sample(EVENTS, 2, noise="1%", seed=1, weigh=True)
    return model.log_prob(PLACES, EVENTS, noise="1%")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    flips=st.lists(FLIP, max_size=4),
    keep=st.one_of(st.just(1.0), st.floats(0, 1)),
    header=st.booleans(),
)
def test_random_damage_is_found(
    flips: list[tuple[float, int]], keep: float, header: bool, sound_file: Path, tmp_path: Path
) -> None:
    """Bits turned and ends cut: refused, or what it answers is the same to the bit."""
    raw = bytearray(sound_file.read_bytes())
    length = 8 + int.from_bytes(raw[:8], "little") if header else len(raw)
    for place, bits in flips:
        raw[int(place * length)] ^= bits
    path = tmp_path / NAME
    path.write_bytes(raw[: round(keep * len(raw))])
    try:
        found = _answers(path)
    except FlowceiError as error:
        assert str(error).isprintable()  # noqa: PT017
    else:
        assert np.array_equal(found, _answers(sound_file))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flips=st.lists(FLIP, min_size=1, max_size=4))
@example(flips=[(0.4536271660963079, 75)])  # a control character in the name of a type
def test_random_damage_to_an_old_file_breaks_nothing(flips: list[tuple[float, int]], tmp_path: Path) -> None:
    """Files of format 1 have no checksum: what is damaged is refused or answers something, no more."""
    raw = bytearray(GOLDEN.read_bytes())
    length = 8 + int.from_bytes(raw[:8], "little")
    for place, bits in flips:
        raw[int(place * length)] ^= bits
    (tmp_path / NAME).write_bytes(raw)
    try:
        _answers(tmp_path / NAME)
    except FlowceiError as error:
        assert str(error).isprintable()  # noqa: PT017


def _leaves(value: object, place: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    """Return the way to every value of a table, tables included."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else []
    return [place] * bool(place) + [leaf for key, part in inner for leaf in _leaves(part, (*place, key))]


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.integers(-5, 5),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5),
    st.lists(st.integers(-3, 3), max_size=3),
    st.dictionaries(st.sampled_from(["kind", "normal", "uniform", "a"]), st.integers(-3, 3), max_size=2),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 10**6), value=ODD)
def test_a_description_that_lies_breaks_nothing(
    place: int, value: object, sound_file: Path, tmp_path: Path
) -> None:
    """Any one value another, with right checksums: refused, or it can be used without a crash."""
    card, tensors = parts(sound_file)
    leaves = [leaf for leaf in _leaves(card) if leaf[-1] != "checksum"]
    *path, last = leaves[place % len(leaves)]
    table = card
    for key in path:
        table = table[key]
    table[last] = value
    forge(tmp_path / NAME, card, tensors)
    with suppress(FlowceiError):
        assert _model_facts(tmp_path / NAME)[0]["content"] == "model"
    try:
        _answers(tmp_path / NAME)
    except FlowceiError as error:
        assert "\n" not in str(error)  # noqa: PT017


def test_a_deep_description_is_shown_at_once(sound: Sound, flow: Shell) -> None:
    """26 tables within one another: twice the time a level would be minutes. More are refused."""
    for depth, code in ((26, 0), (190, 3)):
        deep: dict[str, Any] = {"a": 1}
        for _ in range(depth):
            deep = {"a": deep}
        Path(NAME).write_bytes(sound.said("training.figures", deep))
        assert flow("info", NAME) == code
        assert flow("info", NAME, "--json") == code
        assert len(flow.err.splitlines()) <= 1


def test_loading_leaves_the_random_state_of_the_caller(sound: Sound, tmp_path: Path) -> None:
    """First weights are drawn before a file replaces them; nobody notices."""
    (tmp_path / NAME).write_bytes(sound.whole)
    torch.manual_seed(1)
    flowcei.load(tmp_path / NAME)
    one = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), one)
