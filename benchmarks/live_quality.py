"""Measure what stabilising and the skipping of similar frames do to a live picture, and what they cost.

Flicker is the warping error of Lai et al. 2018 ("Learning Blind Video Temporal Consistency", section 4): the squared
difference, in [0, 1] and summed over colours, between a frame and the next one moved back by the optical flow of the
*input*, over pixels that are visible in both (the test of Ruder et al. 2016, "Artistic style transfer for videos").
A screen or a lamp in the scene changes without moving; `same surface` weighs each pixel by exp(-50 d^2), d the same
difference in the input, as the training loss of that paper does. The flow here is finer than the stabiliser's own.

Without a video the scene is a photograph of scikit-image that pans, with another that moves across it, and the
translation is a change of colours with drawn flicker: there the true result is known, so that lag can be measured.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import click
import cv2
import numpy as np
import numpy.typing as npt
import skimage.data
from rich.console import Console
from rich.table import Table

from i2i_runtime import Translator, command
from i2i_runtime.errors import UsageError
from i2i_runtime.frame import Image
from i2i_runtime.image import write_image
from i2i_runtime.similar import SimilarFilter
from i2i_runtime.sources.open import open_source
from i2i_runtime.stabilize import DEFAULT_STRENGTH, Stabilizer
from measuring.environment import environment
from measuring.figures import interleaved, write_figures
from measuring.output import check_output
from measuring.untrained import save_untrained

Plane = npt.NDArray[np.float32]
SIZE = 240, 426
"""(height, width) of the drawn scenes."""
RATE = 25
NOISE = 8.0
"""Deviation in grey levels that the noisy variants get."""
TIMED_SIZES = ((240, 426), (480, 640), (1080, 1920))


# Flicker --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """From a frame of the input to the next."""

    motion: Plane
    """(h, w, 2): where each pixel of the frame is in the next one, relative to itself."""
    visible: npt.NDArray[np.bool_]
    """(h, w): in both frames, and not at a border of motion."""
    same: Plane
    """(h, w): 1 where the input looks the same in both, to 0."""


def steps(inputs: Sequence[Image]) -> list[Step]:
    """The motion of a video."""
    return [step(one, other) for one, other in pairwise(inputs)]


def step(one: Image, other: Image) -> Step:
    """Motion there and back, and what can be compared."""
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    flow.setFinestScale(0)
    greys = [cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY) for picture in (one, other)]
    there = np.asarray(flow.calc(greys[0], greys[1], None), np.float32)
    back = moved(np.asarray(flow.calc(greys[1], greys[0], None), np.float32), there)
    squared = (there**2).sum(-1)
    visible = ((there + back) ** 2).sum(-1) <= 0.01 * (squared + (back**2).sum(-1)) + 0.5
    slopes = sum(np.gradient(there[..., part], axis=axis) ** 2 for part in (0, 1) for axis in (0, 1))
    visible &= slopes <= 0.01 * squared + 0.002
    target = places(there)
    visible &= ((target >= 0) & (target <= (one.shape[1] - 1, one.shape[0] - 1))).all(-1)
    return Step(there, visible, np.exp(-50 * difference(one, other, there)))


def places(motion: Plane) -> Plane:
    """(h, w, 2): x and y of where each pixel goes."""
    height, width = motion.shape[:2]
    return motion + np.dstack(np.meshgrid(np.arange(width), np.arange(height))).astype(np.float32)


def moved(picture: npt.NDArray, motion: Plane) -> Plane:
    """The picture as seen from where the motion begins."""
    return cv2.remap(np.float32(picture), places(motion), None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def difference(one: Image, other: Image, motion: Plane) -> Plane:
    """(h, w): squared, of values in [0, 1], summed over colours."""
    return (((one - moved(other, motion)) / 255.0) ** 2).sum(-1)


def warping_errors(outputs: Sequence[Image], way: Sequence[Step]) -> tuple[float, float]:
    """(of all visible pixels, of those that show the same surface)."""
    everywhere, same = [], []
    for one, other, part in zip(outputs, outputs[1:], way, strict=False):
        error, weight = difference(one, other, part.motion), part.same * part.visible
        everywhere.append(error[part.visible].mean())
        same.append((error * weight).sum() / weight.sum())
    return float(np.mean(everywhere)), float(np.mean(same))


def sharpness(pictures: Sequence[Image]) -> float:
    """Variance of the Laplacian."""
    greys = (cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY) for picture in pictures)
    return float(np.mean([cv2.Laplacian(grey, cv2.CV_32F).var() for grey in greys]))


def psnr(ones: Sequence[Image], others: Sequence[Image]) -> float | None:
    """Of all pictures together, dB; None where they are equal."""
    error = np.mean([np.mean((np.float32(a) - b) ** 2) for a, b in zip(ones, others, strict=True)])
    return float(10 * np.log10(255**2 / error)) if error else None


# Ways -----------------------------------------------------------------------------------------------------------------

Way = Callable[[Sequence[Image], Sequence[Image]], list[Image]]


def as_it_is(_: Sequence[Image], outputs: Sequence[Image]) -> list[Image]:
    """Frame by frame."""
    return list(outputs)


def plain_average(_: Sequence[Image], outputs: Sequence[Image]) -> list[Image]:
    """The same weights without motion and gate: what anybody would try first."""
    average, averages = np.float32(outputs[0]), []
    for output in outputs:
        average = (1 - DEFAULT_STRENGTH) * output + DEFAULT_STRENGTH * average
        averages.append(np.uint8(average.round()))
    return averages


def stabilized(inputs: Sequence[Image], outputs: Sequence[Image]) -> list[Image]:
    """What `--stabilize` does."""
    stabilizer = Stabilizer()
    return [stabilizer(before, after) for before, after in zip(inputs, outputs, strict=True)]


WAYS: dict[str, Way] = {"frame by frame": as_it_is, "plain average": plain_average, "stabilised": stabilized}


# Scenes ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Clip:
    """A video and its translation."""

    name: str
    inputs: list[Image]
    outputs: list[Image]
    clean: list[Image] | None = None
    """The outputs without flicker, where they are known."""
    objects: list[Plane] | None = None
    """(h, w) mask of the object that moves, where there is one."""


def photograph(name: str) -> Image:
    """BGR."""
    return np.ascontiguousarray(getattr(skimage.data, name)()[..., ::-1])


def moving_scene(count: int, pan: float = 1.2, speed: tuple[float, float] = (3.3, 1.4)) -> tuple[list[Image], list]:
    """A camera that pans `pan` pixels a frame over a photograph, and another that moves across: (frames, masks)."""
    ground, thing = photograph("coffee"), photograph("astronaut")
    height, width = SIZE
    frames, masks = [], []
    for index in range(count):
        view = np.float32([[1, 0, 20 + pan * index], [0, 1, 60]])
        frame = cv2.warpAffine(ground, view, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        small = cv2.resize(thing, None, fx=0.2, fy=0.2, interpolation=cv2.INTER_AREA)
        place = np.float32([[1, 0, 40 + speed[0] * index], [0, 1, 40 + speed[1] * index]])
        mask = cv2.warpAffine(np.ones(small.shape[:2], np.float32), place, (width, height))
        share = mask[..., None]
        frames.append(np.uint8((frame * (1 - share) + cv2.warpAffine(small, place, (width, height)) * share).round()))
        masks.append(mask)
    return frames, masks


def recoloured(picture: Image) -> Image:
    """A translation that can be computed: other colours, another contrast."""
    blue, green, red = cv2.split(picture)
    curve = np.uint8((255 * (np.arange(256) / 255) ** 0.6).round())
    return cv2.LUT(cv2.merge([green, 255 - blue, red]), curve)


def with_noise(pictures: Sequence[Image], deviation: float, seed: int = 0) -> list[Image]:
    """Independent noise in every pixel."""
    random = np.random.default_rng(seed)
    return [np.uint8((p + random.normal(0, deviation, p.shape)).round().clip(0, 255)) for p in pictures]


def with_flicker(pictures: Sequence[Image], deviation: float, seed: int = 1) -> list[Image]:
    """Patches of about four pixels that brighten and darken by themselves, and half as much noise in every pixel."""
    random = np.random.default_rng(seed)
    flickering = []
    for picture in pictures:
        height, width = picture.shape[:2]
        patches = random.normal(0, deviation, (height // 4, width // 4, 3))
        flicker = cv2.resize(patches, (width, height)) + random.normal(0, deviation / 2, picture.shape)
        flickering.append(np.uint8((picture + flicker).round().clip(0, 255)))
    return flickering


def drawn_clips(count: int) -> Iterator[Clip]:
    """The moving scene: translated without flicker, with it, and with noise in the input too."""
    frames, masks = moving_scene(count)
    clean = [recoloured(frame) for frame in frames]
    flickering = with_flicker(clean, NOISE)
    yield Clip("drawn, no flicker", frames, clean, clean, masks)
    yield Clip("drawn, flicker", frames, flickering, clean, masks)
    yield Clip("drawn, flicker, noisy input", with_noise(frames, NOISE / 2), flickering, clean, masks)


def real_clips(video: Path, engine: Path, count: int) -> Iterator[Clip]:
    """A video translated by a model, as it is and with noise added."""
    frames = first_frames(video, count)
    with Translator(engine) as translator:
        yield Clip(f"{video.stem} by {engine.stem}", frames, [translator(frame) for frame in frames])
        noisy = with_noise(frames, NOISE)
        yield Clip(f"{video.stem} with noise by {engine.stem}", noisy, [translator(frame) for frame in noisy])


def first_frames(video: Path, count: int) -> list[Image]:
    """Decoded."""
    source = open_source(video)
    try:
        return [frame.image for frame, _ in zip(source, range(count), strict=False)]
    finally:
        source.close()


# Stabilising ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stability:
    """One line of the first table."""

    clip: str
    way: str
    warping_error: float
    less: float
    """Share of the error that went away."""
    same_surface_error: float
    same_surface_less: float
    sharpness: float
    """Against the clean outputs, or against frame by frame."""
    psnr: float | None
    """dB, against the same; None where nothing differs."""
    lag: float | None
    """Pixels that the moving object is behind."""


def stability(clip: Clip) -> Iterator[Stability]:
    """Measure all ways on a clip."""
    way_of_input = steps(clip.inputs)
    reference = clip.clean or clip.outputs
    raw = warping_errors(clip.outputs, way_of_input)
    for name, way in WAYS.items():
        made = way(clip.inputs, clip.outputs)
        error = warping_errors(made, way_of_input)
        less = [1 - now / before if before else 0.0 for now, before in zip(error, raw, strict=True)]
        sharp = sharpness(made) / sharpness(reference)
        lag = lag_of(clip.clean, made, clip.objects) if clip.clean and clip.objects else None
        yield Stability(clip.name, name, error[0], less[0], error[1], less[1], sharp, psnr(made, reference), lag)


def lag_of(clean: Sequence[Image], made: Sequence[Image], masks: Sequence[Plane]) -> float:
    """How far, in pixels, the object is behind where it should be, over frames in which it is settled.

    The shift is the one of least squared difference, the peak of the cross-correlation (Lucas and Kanade 1981).
    """
    behind = []
    for should, is_, mask in list(zip(clean, made, masks, strict=True))[5:]:
        around = cv2.dilate(mask, np.ones((9, 9))) > 0.5
        one, other = (
            cv2.GaussianBlur(np.float32(cv2.cvtColor(p, cv2.COLOR_BGR2GRAY)), (0, 0), 1.0) for p in (should, is_)
        )
        shift = np.zeros(2, np.float32)
        for _ in range(10):
            back = moved(other, np.broadcast_to(shift, (*other.shape, 2)).astype(np.float32))
            down, right = np.gradient(back)
            slopes = np.stack([right[around], down[around]], axis=1)
            shift += np.linalg.lstsq(slopes, (one - back)[around], rcond=None)[0]
        behind.append(shift)
    return float(np.linalg.norm(np.mean(behind, axis=0)))


def response(contrast: int) -> float:
    """Share of a sudden change of the input, a bright field, that is seen in the frame in which it comes."""
    before = moving_scene(1)[0][0]
    after = before.copy()
    field = np.s_[90:150, 250:330]
    after[field] = np.uint8(np.clip(before[field].astype(int) + contrast, 0, 255))
    stabilizer = Stabilizer()
    for _ in range(15):
        stabilizer(before, recoloured(before))
    seen = np.float32(stabilizer(after, recoloured(after))[field])
    was, will = np.float32(recoloured(before)[field]), np.float32(recoloured(after)[field])
    return float(((seen - was) * (will - was)).sum() / ((will - was) ** 2).sum())


# Skipping -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Skipping:
    """One line of the table of similar frames."""

    scene: str
    frames: int
    skipped: float
    """Share of frames."""
    behind: float | None
    """Largest distance, in pixels, between a moving object and where a repeated result shows it."""
    psnr: float | None
    """Worst of a repeated input against the present one, dB; None where none was repeated."""


def skipping(scene: str, frames: Sequence[Image], positions: Sequence[float] | None = None) -> Skipping:
    """Run the filter over a video."""
    similar = SimilarFilter()
    last, behind, worst = 0, 0.0, None
    skipped = 0
    for index, frame in enumerate(frames):
        if similar.keeps(frame, at=index / RATE):
            skipped += 1
            error = psnr([frame], [frames[last]])
            worst = min((e for e in (error, worst) if e is not None), default=None)
            if positions is not None:
                behind = max(behind, abs(positions[index] - positions[last]))
        else:
            similar.remember(frame, at=index / RATE)
            last = index
    return Skipping(scene, len(frames), skipped / len(frames), behind if positions is not None else None, worst)


def scenes_to_skip(count: int, videos: Sequence[Path]) -> Iterator[Skipping]:
    """Still ones, one with a small thing that moves, and real videos."""
    ground = moving_scene(1)[0][0]
    for deviation in (2.0, 3.0, 5.0):
        yield skipping(f"still, noise {deviation:.0f}", with_noise([ground] * count, deviation))
    for side, speed in ((16, 3.0), (16, 0.5), (8, 3.0)):
        positions = [100 + speed * index for index in range(count)]
        frames = with_noise([with_square(ground, x, side) for x in positions], 3.0)
        yield skipping(f"{side}x{side} square, {speed} px a frame, noise 3", frames, positions)
    for video in videos:
        yield skipping(video.stem, first_frames(video, 1000))


def with_square(ground: Image, left: float, side: int) -> Image:
    """A square, 60 levels brighter than what is behind it, at a place between pixels too."""
    height, width = ground.shape[:2]
    place = np.float32([[1, 0, left % (width - side)], [0, 1, 90]])
    mask = cv2.warpAffine(np.ones((side, side), np.float32), place, (width, height))
    return np.uint8((ground + 60 * mask[..., None]).round().clip(0, 255))


# Cost -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """Processor time a frame."""

    what: str
    milliseconds: float
    of_inference: float
    """As a part of what a ResNet-9 of the paper's width takes for 256x256."""


def costs(rounds: int) -> list[Cost]:
    """Medians of the processor time on one thread, all in turns: what else the machine does hardly counts."""
    cv2.setNumThreads(1)
    works: dict[str, Callable[[], object]] = {}
    picture = cv2.resize(photograph("coffee"), (256, 256), interpolation=cv2.INTER_AREA)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        # Untrained: speed does not depend on what was learnt.
        model = save_untrained(Path(folder) / "resnet_9.onnx", "resnet_9blocks", 64, 256)
        translator = stack.enter_context(Translator(model, threads=1))
        works["ResNet-9 256x256"] = partial(translator, picture)
        for height, width in TIMED_SIZES:
            large = cv2.resize(photograph("coffee"), (width + 16, height), interpolation=cv2.INTER_CUBIC)
            views = [np.ascontiguousarray(large[:, 2 * i : 2 * i + width]) for i in range(8)]
            panning = itertools.cycle([(view, recoloured(view)) for view in views])
            similar = SimilarFilter()
            similar.remember(views[0], at=0.0)
            works[f"stabilise {width}x{height}"] = partial(stabilize_next, Stabilizer(), panning)
            works[f"compare {width}x{height}"] = partial(similar.keeps, views[0], at=0.0)
        seconds = interleaved(works, rounds, warm_up=2, clock=time.process_time)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    inference = medians["ResNet-9 256x256"]
    return [Cost(name, 1000 * median, median / inference) for name, median in medians.items()]


def stabilize_next(stabilizer: Stabilizer, panning: Iterator[tuple[Image, Image]]) -> None:
    """The next frame and its result."""
    stabilizer(*next(panning))


# Showing --------------------------------------------------------------------------------------------------------------


def slices(count: int = 130) -> Image:
    """One column of pixels over time, the classic look at flicker: input, frame by frame, stabilised."""
    frames, _ = moving_scene(count, pan=0.4, speed=(1.5, 0.4))
    outputs = with_flicker([recoloured(frame) for frame in frames], NOISE)
    panels = []
    for title, pictures in (
        ("input", frames),
        ("frame by frame", outputs),
        ("stabilised", stabilized(frames, outputs)),
    ):
        column = np.stack([picture[30:150, 140] for picture in pictures], axis=1)
        panel = cv2.resize(column, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
        head = np.full((26, panel.shape[1], 3), 255, np.uint8)
        cv2.putText(head, f"{title}: one column over time", (6, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1,
                    cv2.LINE_AA)  # fmt: skip
        panels += [np.vstack([head, panel]), np.full((266, 8, 3), 255, np.uint8)]
    return np.hstack(panels[:-1])


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Names left, figures right."""
    made = Table(title=title)
    for index, column in enumerate(columns):
        made.add_column(column, justify="left" if index == 0 or column == "way" else "right")
    for row in rows:
        made.add_row(*row)
    return made


def number(value: float | None, form: str) -> str:
    """Or a dash."""
    return "-" if value is None else format(value, form)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--video", "videos", type=click.Path(path_type=Path), multiple=True, help="Real frames to measure on; repeatable."
)
@click.option(
    "--engine", "engines", type=click.Path(path_type=Path), multiple=True, help="What translates the first of them."
)
@click.option("--frames", type=click.IntRange(min=2), default=60, show_default=True, help="Of each clip.")
@click.option(
    "--rounds", type=click.IntRange(min=0), default=20, show_default=True, help="Of the timing; 0 leaves it out."
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all figures here.")
@click.option("--picture", type=click.Path(path_type=Path), help="Write a picture of one column over time here.")
@command.debug_option
def main(
    videos: tuple[Path, ...],
    engines: tuple[Path, ...],
    frames: int,
    rounds: int,
    json_file: Path | None,
    picture: Path | None,
    debug: bool,
) -> None:
    """Say what stabilising and the skipping of similar frames do to a live picture, and what they cost."""
    if engines and not videos:
        raise UsageError("--engine: it needs a video to translate; give --video FILE")
    for path in (json_file, picture):
        check_output(path)
    machine = environment(sys.argv)
    clips = list(drawn_clips(frames))
    for engine in engines:
        clips += real_clips(videos[0], engine, frames)
    stable = [row for clip in clips for row in stability(clip)]
    responses = {contrast: response(contrast) for contrast in (20, 40, 80)}
    skipped = list(scenes_to_skip(100, videos))
    timed = costs(rounds) if rounds else []
    if json_file is not None:
        figures = {
            "threads": cv2.getNumThreads(),
            "stabilising": [asdict(row) for row in stable],
            "response": responses,
            "similar": [asdict(row) for row in skipped],
            "cost": [asdict(row) for row in timed],
        }
        write_figures(json_file, machine, figures)

    console = Console(width=160)
    console.print(
        table(
            "Stabilising: warping error x 1000",
            ("clip", "way", "all", "less", "same surface", "less", "sharpness", "PSNR dB", "lag px"),
            [
                (r.clip, r.way, f"{1e3 * r.warping_error:.2f}", f"{r.less:.0%}", f"{1e3 * r.same_surface_error:.2f}",
                 f"{r.same_surface_less:.0%}", f"{r.sharpness:.2f}", number(r.psnr, ".1f"), number(r.lag, ".2f"))
                for r in stable
            ],
        )
    )  # fmt: skip
    for contrast, share in responses.items():
        console.print(f"a field brightens by {contrast} levels: {share:.1%} of the change is seen at once")
    console.print(
        table(
            "Similar frames",
            ("scene", "frames", "not translated", "behind px", "worst PSNR dB"),
            [
                (r.scene, str(r.frames), f"{r.skipped:.0%}", number(r.behind, ".1f"), number(r.psnr, ".1f"))
                for r in skipped
            ],
        )
    )
    if timed:
        console.print(
            table(
                "Processor time a frame, one thread",
                ("what", "ms", "of the inference"),
                [(r.what, f"{r.milliseconds:.2f}", f"{r.of_inference:.1%}") for r in timed],
            )
        )
    if picture is not None:
        write_image(picture, slices())


if __name__ == "__main__":
    command.run(main)
