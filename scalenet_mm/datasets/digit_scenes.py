"""Scenes of real handwritten digits for classification, detection and segmentation.

scikit-learn ships 1,797 scans of handwritten digits (8x8 pixels). :func:`make_digit_scenes`
enlarges them smoothly and puts them, turned and coloured, on cluttered backgrounds. The same seed
gives the same files bit for bit, no download is needed, and a set is made in seconds.
"""
import errno
import json
import os
import os.path as osp
import shutil
import tempfile
import time
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple, Union

import cv2
import numpy as np
from mmengine.logging import print_log
from mmengine.registry import FUNCTIONS

from ..errors import ConfigError

# Raise it whenever a change alters a single pixel or a single annotation: a set made by another
# version is then recognised as such and never mixed with new files.
GENERATOR_VERSION = 1
# The same for what concerns the images for classification alone.
CLS_VERSION = 2

CLASSES = tuple('0123456789')
TASKS = ('cls', 'det', 'seg')
SPLITS = ('train', 'val')
MANIFEST = 'manifest.json'

# A digit keeps at least this share of its own pixels visible.
MIN_VISIBLE = 0.7
# The scans are 8x8: below that a digit would be shrunk, and illegible.
SCAN_SIZE = 8
# Free pixels a digit needs beside its longer side, for its soft edge and a clear pixel around.
BORDER = 6
# Digits of the largest number per scene, at their smallest, may fill this share of the image.
MAX_FILL = 0.4
# Ink above this level belongs to the digit, after local contrast is raised by that factor.
INK_LEVEL = 0.5
SHARPEN = 1.0
# Range of a digit's longer side relative to the image, for classification.
CLS_DIGIT_RATIO = (0.75, 0.9)
# A ground is darkened by this factor where all digits are to be lighter than it.
DARK_GROUND = 0.3
# A leftover of a killed run is removed once it is older than this many seconds.
STALE_AFTER = 3600

# First words of the spawn keys: every random stream of a set has a key of its own, so no stream
# depends on which others were drawn before it.
_SPLIT_STREAM, _SCENE_STREAM, _CLS_STREAM = range(3)
_PLAN_ROLE, _IMAGE_ROLE = range(2)


@dataclass
class Digit:
    """One digit of a scene.

    Args:
        source (int): Index of the scan in ``sklearn.datasets.load_digits``.
        label (int): The digit, 0 to 9.
        mask (np.ndarray): All its pixels, a bool array of the image's size.
        visible (np.ndarray): The pixels that no later digit covers.
    """
    source: int
    label: int
    mask: np.ndarray
    visible: np.ndarray


# Scans and splits


def load_scans() -> Tuple[np.ndarray, np.ndarray]:
    """Load scikit-learn's handwritten digits.

    Returns:
        tuple[np.ndarray, np.ndarray]: Scans of shape (1797, 8, 8), float32 in [0, 1], and their
        labels.

    Raises:
        ImportError: If scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as e:
        raise ImportError('The digit scenes are made from the scans that scikit-learn ships, and '
                          f'it cannot be imported ({e}). Run `pip install scikit-learn`.') from e
    digits = load_digits()
    scans = digits.images.astype(np.float32)
    return scans / scans.max(axis=(1, 2), keepdims=True), digits.target.astype(int)


def _generator(seed: int, *key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def split_sources(labels: np.ndarray, seed: int, val_ratio: float) -> Dict[str, np.ndarray]:
    """Split the scans, class by class, so that no scan is in both splits.

    Args:
        labels (np.ndarray): Label of each scan.
        seed (int): Seed of the set.
        val_ratio (float): Share of each class that goes to ``val``.

    Returns:
        dict[str, np.ndarray]: Sorted scan indices of ``train`` and ``val``.
    """
    rng = _generator(seed, _SPLIT_STREAM, 0, 0, 0)
    train, val = [], []
    for label in range(len(CLASSES)):
        members = rng.permutation(np.flatnonzero(labels == label))
        num_val = min(max(round(len(members) * val_ratio), 1), len(members) - 1)
        val.append(members[:num_val])
        train.append(members[num_val:])
    return dict(train=np.sort(np.concatenate(train)), val=np.sort(np.concatenate(val)))


def _plan(rng: np.random.Generator, labels: np.ndarray, pool: np.ndarray,
          counts: Sequence[int]) -> List[List[int]]:
    """Deal scans to images: classes differ by one at most, and so do the scans of a class."""
    total = int(np.sum(counts))
    rounds = -(-total // len(CLASSES))
    classes = np.concatenate([rng.permutation(len(CLASSES)) for _ in range(rounds)])[:total]
    dealt = np.empty(total, dtype=int)
    for label in range(len(CLASSES)):
        places = np.flatnonzero(classes == label)
        members = pool[labels[pool] == label]
        turns = -(-len(places) // len(members))
        if turns:
            queue = np.concatenate([rng.permutation(members) for _ in range(turns)])
            dealt[places] = queue[:len(places)]
    ends = np.cumsum(counts)
    return [dealt[end - count:end].tolist() for end, count in zip(ends, counts)]


# Drawing


def _render_glyph(scan: np.ndarray, size: float, angle: float, shear: float) -> np.ndarray:
    """Enlarge a scan to a smooth, turned and sheared digit with soft edges.

    Args:
        scan (np.ndarray): Scan of shape (8, 8) in [0, 1].
        size (float): Longer side of the digit's tight box in pixels.
        angle (float): Rotation in radians.
        shear (float): Horizontal shear.

    Returns:
        np.ndarray: Opacity in [0, 1], cropped to where it is not zero and a clear pixel around.
    """
    padded = np.pad(scan, 2)
    centre = (len(padded) - 1) / 2
    side = int(np.ceil(2 * size)) + 2 * BORDER
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turn = rotation @ np.array([[1, shear], [0, 1]])

    def enlarge(scale):
        matrix = np.empty((2, 3))
        matrix[:, :2] = scale * turn
        matrix[:, 2] = (side - 1) / 2 - matrix[:, :2].sum(axis=1) * centre
        ink = cv2.warpAffine(padded, matrix, (side, side), flags=cv2.INTER_CUBIC)
        # Cubic interpolation leaves a trace of the scan's pixel grid; the blur takes it away.
        ink = cv2.GaussianBlur(ink, (0, 0), 0.3 * scale)
        # Strokes are judged against their surroundings: one threshold for all would fill the
        # small holes of 6, 8 and 9, or break faint strokes.
        ink = ink + SHARPEN * (ink - cv2.GaussianBlur(ink, (0, 0), 1.2 * scale))
        edge = min(0.8 / scale, 0.2)  # an edge of about one and a half pixels at every size
        return np.clip((ink - INK_LEVEL) / (2 * edge) + 0.5, 0, 1)

    def extent(values):
        rows, cols = np.flatnonzero(values.any(axis=1)), np.flatnonzero(values.any(axis=0))
        return rows[0], rows[-1] + 1, cols[0], cols[-1] + 1

    # How much of its 8x8 pixels a digit fills varies, so it is measured and then drawn to size.
    scale = size / SCAN_SIZE
    top, bottom, left, right = extent(enlarge(scale) >= 0.5)
    alpha = enlarge(scale * size / max(bottom - top, right - left))
    top, bottom, left, right = extent(alpha > 0)
    return np.pad(alpha[top:bottom, left:right], 1)


def _draw_background(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw a colour gradient with soft blobs and line strokes on it."""
    y, x = np.mgrid[:size, :size].astype(np.float32) / size
    theta = rng.uniform(0, 2 * np.pi)
    ramp = np.cos(theta) * x + np.sin(theta) * y
    ramp = ((ramp - ramp.min()) / (np.ptp(ramp) + 1e-6))[..., None]
    image = rng.uniform(40, 215, 3) * (1 - ramp) + rng.uniform(40, 215, 3) * ramp

    for _ in range(rng.integers(3, 7)):
        centre_x, centre_y = rng.uniform(0, 1, 2)
        axes = rng.uniform(0.05, 0.25, 2)
        theta = rng.uniform(0, np.pi)
        u = np.cos(theta) * (x - centre_x) + np.sin(theta) * (y - centre_y)
        v = -np.sin(theta) * (x - centre_x) + np.cos(theta) * (y - centre_y)
        weight = rng.uniform(0.3, 0.7) * np.exp(-0.5 * ((u / axes[0])**2 + (v / axes[1])**2))
        image += weight[..., None] * (rng.uniform(30, 225, 3) - image)

    image = np.ascontiguousarray(np.clip(np.rint(image), 0, 255).astype(np.uint8))
    t = np.linspace(0, 1, 12)[:, None]
    for _ in range(rng.integers(4, 9)):
        start = rng.uniform(0, size, 2)
        bend, end = start + rng.uniform(-0.4, 0.4, (2, 2)) * size
        curve = (1 - t)**2 * start + 2 * t * (1 - t) * bend + t**2 * end
        anchor = np.clip(start, 0, size - 1).astype(int)
        # Fainter than any digit: clutter is to distract, not to be taken for one.
        offset = rng.uniform(20, 55) * rng.choice([-1, 1])
        colour = np.clip(image[anchor[1], anchor[0]] + offset + rng.uniform(-15, 15, 3), 0, 255)
        thickness = int(rng.integers(1, max(2, size // 40) + 1))
        cv2.polylines(image, [np.rint(curve).astype(np.int32)], False, colour.tolist(), thickness,
                      cv2.LINE_AA)
    return image.astype(np.float32)


def _luminance(colours: np.ndarray) -> np.ndarray:
    return colours @ np.array([0.114, 0.587, 0.299])  # BGR, as OpenCV writes it


def _pick_colour(rng: np.random.Generator, surroundings: np.ndarray,
                 neighbours: Sequence[np.ndarray], light: bool) -> np.ndarray:
    """Pick a colour, if asked a light one, that stands out from what is around and touched."""
    around = _luminance(surroundings.reshape(-1, 3)).mean()
    hsv = np.stack([rng.uniform(0, 180, 32), rng.uniform(20, 255, 32),
                    rng.uniform(20, 255, 32)], axis=-1)
    colours = cv2.cvtColor(hsv[None].astype(np.uint8), cv2.COLOR_HSV2BGR)[0].astype(np.float64)
    # Near-black and near-white last: against any surroundings one of them stands out.
    colours = np.concatenate([colours, [[15.] * 3, [240.] * 3]])
    lift = _luminance(colours) - around
    score = np.abs(lift) / 70
    for neighbour in neighbours:
        score = np.minimum(score, np.linalg.norm(colours - neighbour, axis=1) / 90)
    # Most saturated colours are dark; the coin keeps light digits as frequent as dark ones.
    preferred = lift > 0 if light or rng.random() < 0.5 else lift < 0
    for good in (preferred & (score >= 1), score >= 1):
        if good.any():
            return colours[good.argmax()]
    return colours[score.argmax()]


def _place(rng: np.random.Generator, scans: np.ndarray, sources: Sequence[int], image_size: int,
           digit_size: Tuple[int, float]) -> Optional[List[Tuple[np.ndarray, int, int]]]:
    """Find a place for each digit, later ones on top; None if there is none after some tries."""
    glyphs: list = []
    masks: list = []
    visible: list = []
    for source in sources:
        # More small digits than large ones, as in photographs.
        size = np.exp(rng.uniform(*np.log(digit_size)))
        alpha = _render_glyph(scans[source], size, np.deg2rad(rng.uniform(-15, 15)),
                              rng.uniform(-0.15, 0.15))
        room_y, room_x = image_size - alpha.shape[0], image_size - alpha.shape[1]
        if min(room_y, room_x) < 0:
            return None
        for _ in range(30):
            top, left = int(rng.integers(room_y + 1)), int(rng.integers(room_x + 1))
            mask = np.zeros((image_size, image_size), dtype=bool)
            mask[top:top + alpha.shape[0], left:left + alpha.shape[1]] = alpha >= 0.5
            left_over = [v & ~mask for v in visible]
            if all(v.sum() >= MIN_VISIBLE * m.sum() for v, m in zip(left_over, masks)):
                break
        else:
            return None
        glyphs.append((alpha, top, left))
        masks.append(mask)
        visible = left_over + [mask]
    return glyphs


def render_scene(rng: np.random.Generator, scans: np.ndarray, labels: np.ndarray,
                 sources: Sequence[int], image_size: int, digit_size: Tuple[int, int],
                 light_on_dark: bool = False) -> Tuple[np.ndarray, List[Digit]]:
    """Draw one scene.

    Args:
        rng (np.random.Generator): The scene's own random generator.
        scans (np.ndarray): Scans of shape (N, 8, 8) in [0, 1].
        labels (np.ndarray): Label of each scan.
        sources (Sequence[int]): Scans to show, from back to front.
        image_size (int): Side of the square image.
        digit_size (tuple[int, int]): Range of a digit's longer side in pixels.
        light_on_dark (bool): Whether every digit is lighter than the ground, which is dark.
            Otherwise about half of them are darker than what is around. Defaults to False.

    Returns:
        tuple[np.ndarray, list[Digit]]: The image (uint8, BGR) and its digits, from back to front.

    Raises:
        RuntimeError: If no arrangement is found in which the digits hide each other little.
    """
    low, high = digit_size
    for attempt in range(40):
        # A crowded draw is tried again with smaller digits.
        upper = low + (high - low) * 0.9**attempt
        glyphs = _place(rng, scans, sources, image_size, (low, upper))
        if glyphs is not None:
            break
    else:
        raise RuntimeError(
            f'{len(sources)} digits of at least {low} pixels could not be arranged on '
            f'{image_size} x {image_size} pixels so that each keeps {MIN_VISIBLE:.0%} visible. '
            'Raise image_size, or lower digits_per_scene or digit_size.')

    image = _draw_background(rng, image_size)
    if light_on_dark:
        image *= DARK_GROUND
    digits: list = []
    colours: list = []
    for source, (alpha, top, left) in zip(sources, glyphs):
        height, width = alpha.shape
        mask = np.zeros((image_size, image_size), dtype=bool)
        mask[top:top + height, left:left + width] = alpha >= 0.5
        box = image[max(top - 2, 0):top + height + 2, max(left - 2, 0):left + width + 2]
        near = cv2.dilate(mask.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
        touched = [c for c, d in zip(colours, digits) if (near & d.mask).any()]
        colour = _pick_colour(rng, box, touched, light_on_dark)
        patch = image[top:top + height, left:left + width]
        patch += alpha[..., None] * (colour - patch)
        for digit in digits:
            digit.visible = digit.visible & ~mask
        digits.append(Digit(int(source), int(labels[source]), mask, mask.copy()))
        colours.append(colour)
    image += rng.normal(0, rng.uniform(3, 9), image.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), digits


# Annotations and files


def encode_rle(mask: np.ndarray) -> dict:
    """Encode a mask as COCO's uncompressed run lengths (column by column, zeros first)."""
    flat = np.concatenate([[False], mask.ravel(order='F')])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff(np.concatenate([[0], changes, [mask.size]]))
    return dict(size=list(mask.shape), counts=counts.tolist())


def _coco_annotation(digit: Digit, ann_id: int, image_id: int) -> dict:
    rows = np.flatnonzero(digit.visible.any(axis=1))
    cols = np.flatnonzero(digit.visible.any(axis=0))
    box = (cols[0], rows[0], cols[-1] + 1 - cols[0], rows[-1] + 1 - rows[0])
    return dict(
        id=ann_id,
        image_id=image_id,
        category_id=digit.label + 1,
        bbox=[int(v) for v in box],
        area=int(digit.visible.sum()),
        iscrowd=0,
        segmentation=encode_rle(digit.visible),
        source_index=digit.source)


def _label_map(digits: Sequence[Digit], image_size: int) -> np.ndarray:
    labels = np.zeros((image_size, image_size), dtype=np.uint8)
    for digit in digits:
        labels[digit.visible] = digit.label + 1
    return labels


def _write_png(path: str, image: np.ndarray) -> None:
    # cv2.imwrite returns False where a disk is full; writing the bytes ourselves raises.
    os.makedirs(osp.dirname(path), exist_ok=True)
    with open(path, 'wb') as f:
        f.write(cv2.imencode('.png', image)[1].tobytes())


def _write_json(path: str, content: dict) -> None:
    os.makedirs(osp.dirname(path), exist_ok=True)
    with open(path, 'w', encoding='utf-8') as f:
        json.dump(content, f)


def _write_cls(root: str, seed: int, num: Dict[str, int], params: dict, scans: np.ndarray,
               labels: np.ndarray, pools: Dict[str, np.ndarray]) -> dict:
    """Write the class folders; return which scan each file shows."""
    images: dict = {}
    for s, split in enumerate(SPLITS):
        rng = _generator(seed, _CLS_STREAM, s, _PLAN_ROLE, 0)
        images[split] = {}
        for label in CLASSES:
            # A class without images keeps its folder: mmpretrain counts folders to find classes.
            os.makedirs(osp.join(root, 'cls', split, label), exist_ok=True)
        for i, sources in enumerate(_plan(rng, labels, pools[split], [1] * num[split])):
            # Light on dark and large: on scenes like those of the other tasks a small transformer
            # that starts from nothing stays at chance for many epochs.
            image, digits = render_scene(
                _generator(seed, _CLS_STREAM, s, _IMAGE_ROLE, i), scans, labels, sources,
                params['image_size'], params['digit_size'], light_on_dark=True)
            name = f'{digits[0].label}/{i:06d}.png'
            _write_png(osp.join(root, 'cls', split, name), image)
            images[split][name] = sources
    return images


def _scenes(seed: int, split: str, num: int, params: dict, scans: np.ndarray, labels: np.ndarray,
            pool: np.ndarray) -> Iterator[Tuple[str, np.ndarray, List[Digit]]]:
    s = SPLITS.index(split)
    rng = _generator(seed, _SCENE_STREAM, s, _PLAN_ROLE, 0)
    low, high = params['digits_per_scene']
    counts = rng.integers(low, high + 1, num).tolist()
    for i, sources in enumerate(_plan(rng, labels, pool, counts)):
        image, digits = render_scene(
            _generator(seed, _SCENE_STREAM, s, _IMAGE_ROLE, i), scans, labels, sources,
            params['image_size'], params['digit_size'])
        yield f'{i:06d}.png', image, digits


def _write_scenes(root: str, tasks: Sequence[str], seed: int, num: Dict[str, int], params: dict,
                  scans: np.ndarray, labels: np.ndarray, pools: Dict[str, np.ndarray]) -> dict:
    """Write the scenes for detection and / or segmentation; return which scans each shows.

    The two tasks get the same scenes, so a detector and a segmentor can be compared on them.
    """
    images: dict = {}
    for split in SPLITS:
        images[split] = {}
        coco: dict = dict(
            info=dict(description=f'Digit scenes, {split}', version=str(GENERATOR_VERSION)),
            licenses=[],
            # Ids start at 1, so that they are also the values of the segmentation labels.
            categories=[dict(id=i + 1, name=name, supercategory='digit')
                        for i, name in enumerate(CLASSES)],
            images=[],
            annotations=[])
        for name, image, digits in _scenes(seed, split, num[split], params, scans, labels,
                                           pools[split]):
            images[split][name] = [digit.source for digit in digits]
            if 'det' in tasks:
                _write_png(osp.join(root, 'det', split, name), image)
                image_id = len(coco['images']) + 1
                coco['images'].append(
                    dict(id=image_id, file_name=name, height=image.shape[0],
                         width=image.shape[1]))
                for digit in digits:
                    ann_id = len(coco['annotations']) + 1
                    coco['annotations'].append(_coco_annotation(digit, ann_id, image_id))
            if 'seg' in tasks:
                _write_png(osp.join(root, 'seg', 'img_dir', split, name), image)
                _write_png(
                    osp.join(root, 'seg', 'ann_dir', split, name),
                    _label_map(digits, image.shape[0]))
        if 'det' in tasks:
            _write_json(osp.join(root, 'det', 'annotations', f'{split}.json'), coco)
    return images


# Parameters


def _check_int(name: str, value, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ConfigError(f'{name} must be an integer of at least {least}, got {value!r}.')
    return int(value)


def _check_pair(name: str, value, least: int) -> List[int]:
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 2:
        raise ConfigError(f'{name} must be a pair (smallest, largest), got {value!r}.')
    low, high = (_check_int(f'{name}[{i}]', v, least) for i, v in enumerate(value))
    if low > high:
        raise ConfigError(f'{name} must be (smallest, largest), got ({low}, {high}); swap them.')
    return [low, high]


def _check_tasks(tasks: Union[str, Sequence[str]]) -> List[str]:
    tasks = [tasks] if isinstance(tasks, str) else list(tasks)
    unknown = [task for task in tasks if task not in TASKS]
    if unknown or not tasks:
        given = f'unknown: {unknown}' if unknown else 'none was given'
        raise ConfigError(f'tasks must name one or more of {TASKS}; {given}.')
    return [task for task in TASKS if task in tasks]


def _check_scene_params(image_size: int, digits_per_scene: Sequence[int],
                        digit_size: Sequence[int]) -> dict:
    image_size = _check_int('image_size', image_size, 2 * SCAN_SIZE)
    digits_per_scene = _check_pair('digits_per_scene', digits_per_scene, 1)
    digit_size = _check_pair('digit_size', digit_size, SCAN_SIZE)
    crowd = int(np.ceil(digit_size[0] * np.sqrt(digits_per_scene[1] / MAX_FILL)))
    least = max(digit_size[1] + BORDER, crowd)
    if digit_size[1] > image_size - BORDER:
        raise ConfigError(
            f'digit_size allows digits of {digit_size[1]} pixels, and image_size={image_size} '
            f'holds digits of {image_size - BORDER} at most. Raise image_size to {least} or lower '
            'digit_size.')
    if crowd > image_size:
        raise ConfigError(
            f'digits_per_scene allows {digits_per_scene[1]} digits of at least {digit_size[0]} '
            f'pixels (digit_size), too many for image_size={image_size}. Raise image_size to '
            f'{least}, or lower digits_per_scene or digit_size.')
    return dict(image_size=image_size, digits_per_scene=digits_per_scene, digit_size=digit_size,
                min_visible=MIN_VISIBLE)


def _check_cls_params(image_size: int) -> dict:
    # The smallest digit, with BORDER beside it, must fit.
    least = int(np.ceil(BORDER / (1 - CLS_DIGIT_RATIO[0])))
    image_size = _check_int('cls_image_size', image_size, least)
    low, high = (int(ratio * image_size) for ratio in CLS_DIGIT_RATIO)
    return dict(version=CLS_VERSION, image_size=image_size,
                digit_size=[low, min(high, image_size - BORDER)])


# The set on disk


def _read_manifest(root: str) -> Optional[dict]:
    """Read a set's manifest; None if the folder is missing or empty.

    Raises:
        FileExistsError: If there is something else, which must not be touched.
    """
    if not osp.lexists(root) or (osp.isdir(root) and not os.listdir(root)):
        return None
    try:
        with open(osp.join(root, MANIFEST), encoding='utf-8') as f:
            manifest = json.load(f)
        if manifest['type'] == 'digit_scenes':
            return manifest
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise FileExistsError(
        f"root='{root}' exists and is not a set of digit scenes (it has no readable {MANIFEST} of "
        'one), so it is left alone. Choose another root, or remove it yourself.')


def _task_files(task: str, images: dict) -> Iterator[str]:
    for split, names in images.items():
        if task == 'det':
            yield osp.join('det', 'annotations', f'{split}.json')
        for name in names:
            if task == 'seg':
                yield osp.join('seg', 'img_dir', split, name)
                yield osp.join('seg', 'ann_dir', split, name)
            else:
                yield osp.join(task, split, name)


def _check_same(root: str, manifest: dict, common: dict, tasks: Dict[str, dict]) -> List[str]:
    """Check that a set was made as asked, and return the tasks that it lacks.

    Raises:
        FileExistsError: If it was made with other parameters, or files are missing.
    """
    fix = 'Pass overwrite=True (--overwrite) to replace the set, or choose another root.'
    asked, found = dict(common), {key: manifest.get(key) for key in common}
    for task, params in tasks.items():
        if task in manifest['tasks']:
            have = manifest['tasks'][task]['parameters']
            # Tasks share options, so the task is named.
            asked.update({f'{task} {key}': value for key, value in params.items()})
            found.update({f'{task} {key}': have.get(key) for key in params})
    differing = [f'{key}: {found[key]} there, {asked[key]} asked for'
                 for key in asked if found[key] != asked[key]]
    if differing:
        raise FileExistsError(f"root='{root}' holds digit scenes made with other parameters "
                              f"({'; '.join(differing)}). {fix}")
    for task in tasks:
        if task in manifest['tasks']:
            files = list(_task_files(task, manifest['tasks'][task]['images']))
            missing = [path for path in files if not osp.isfile(osp.join(root, path))]
            if missing:
                raise FileExistsError(
                    f"root='{root}' is a set of digit scenes from which {len(missing)} of "
                    f"{len(files)} files of task '{task}' are missing, '{missing[0]}' for one. "
                    f'{fix}')
    return [task for task in tasks if task not in manifest['tasks']]


def _remove_leftovers(parent: str, prefix: str) -> None:
    for name in os.listdir(parent):
        path = osp.join(parent, name)
        try:
            if name.startswith(prefix) and time.time() - osp.getmtime(path) > STALE_AFTER:
                shutil.rmtree(path, ignore_errors=True)
        except OSError:  # gone meanwhile
            pass


def _replace(new: str, root: str, trash: str) -> None:
    """Put a whole new set in the place of what is there, if anything."""
    if not osp.lexists(root):
        os.rename(new, root)
        return
    os.rename(root, trash)
    try:
        os.rename(new, root)
    except BaseException:
        os.rename(trash, root)
        raise


def _extend(new: str, root: str, tasks: Sequence[str]) -> None:
    """Add tasks to a set. They count only from when the manifest, last, names them."""
    for task in tasks:
        place = osp.join(root, task)
        if osp.lexists(place):  # from an addition that was interrupted right here
            os.rename(place, f'{new}.{task}')
        os.rename(osp.join(new, task), place)
    os.replace(osp.join(new, MANIFEST), osp.join(root, MANIFEST))


@FUNCTIONS.register_module()
def make_digit_scenes(root: str = 'data/digit_scenes',
                      tasks: Union[str, Sequence[str]] = TASKS,
                      num_train: int = 400,
                      num_val: int = 150,
                      image_size: int = 128,
                      digits_per_scene: Tuple[int, int] = (2, 6),
                      digit_size: Tuple[int, int] = (20, 64),
                      cls_num_train: int = 2000,
                      cls_num_val: int = 500,
                      cls_image_size: int = 64,
                      val_ratio: float = 0.25,
                      seed: int = 0,
                      overwrite: bool = False) -> dict:
    """Make a data set of scenes of handwritten digits, or find it made.

    Each scene shows several digits of different size and colour, overlapping a little (each keeps
    at least 70 % of its pixels visible), on a cluttered background. An image for classification
    shows one digit, large and lighter than its background. No scan is used in both splits, and
    classes are balanced. The files depend on the arguments alone; detection and
    segmentation get the same scenes. ::

        digit_scenes/
        ├── manifest.json                            parameters, and the scans that each image shows
        ├── cls/{train,val}/<digit>/000000.png       class folders, one digit per image
        ├── det/{train,val}/000000.png
        ├── det/annotations/{train,val}.json         COCO: boxes and masks of the visible pixels
        └── seg/{img_dir,ann_dir}/{train,val}/000000.png    labels: 0 background, digit + 1

    A set is made in a temporary folder beside ``root`` and renamed when it is whole, so an
    interrupted run leaves nothing behind that could be taken for one. If ``root`` already holds a
    set with these parameters, the call returns at once; tasks that it lacks are added.

    Args:
        root (str): Folder of the set. Defaults to 'data/digit_scenes'.
        tasks (str | Sequence[str]): Some of 'cls', 'det' and 'seg'. Defaults to all three.
        num_train (int): Training scenes for detection and segmentation. Defaults to 400.
        num_val (int): Validation scenes for detection and segmentation. Defaults to 150.
        image_size (int): Side of the scenes in pixels. Defaults to 128.
        digits_per_scene (tuple[int, int]): Smallest and largest number of digits in a scene.
            Defaults to (2, 6).
        digit_size (tuple[int, int]): Smallest and largest longer side of a digit in pixels.
            Defaults to (20, 64).
        cls_num_train (int): Training images for classification. Defaults to 2000.
        cls_num_val (int): Validation images for classification. Defaults to 500.
        cls_image_size (int): Side of the classification images in pixels. Defaults to 64.
        val_ratio (float): Share of the 1,797 scans that validation images are made of.
            Defaults to 0.25.
        seed (int): Seed of everything random. Defaults to 0.
        overwrite (bool): Whether to replace a set of digit scenes that is already in ``root``,
            with all its tasks. Anything else is never replaced. Defaults to False.

    Returns:
        dict: ``root``; ``generated``, the tasks made by this call (none if the set was found);
        and ``num_images``, the images of each task and split.

    Raises:
        ConfigError: If an argument is out of range.
        FileExistsError: If ``root`` holds something other than the set asked for.
        ImportError: If scikit-learn is missing.
    """
    if not isinstance(root, (str, os.PathLike)) or not str(root):
        raise ConfigError(f'root must be the path of a folder, got {root!r}.')
    tasks = _check_tasks(tasks)
    scene_params = _check_scene_params(image_size, digits_per_scene, digit_size)
    scene_params['num'] = [_check_int('num_train', num_train, 1), _check_int('num_val', num_val, 1)]
    cls_params = _check_cls_params(cls_image_size)
    cls_params['num'] = [_check_int('cls_num_train', cls_num_train, 1),
                         _check_int('cls_num_val', cls_num_val, 1)]
    if not isinstance(val_ratio, float) or not 0 < val_ratio < 1:
        raise ConfigError(f'val_ratio must be a number between 0 and 1, got {val_ratio!r}.')
    common = dict(
        generator_version=GENERATOR_VERSION, seed=_check_int('seed', seed, 0), val_ratio=val_ratio)
    asked = {task: cls_params if task == 'cls' else scene_params for task in tasks}

    # A link is followed, so that the temporary folder is on the disk of the set.
    path = osp.realpath(root)
    manifest: Any = _read_manifest(path)
    missing = tasks
    if manifest is not None and not overwrite:
        missing = _check_same(path, manifest, common, asked)
    if missing:
        manifest = _make(path, manifest, missing, common, asked, overwrite)
    return dict(
        root=str(root),
        generated=list(missing),
        num_images={task: {split: len(names) for split, names in entry['images'].items()}
                    for task, entry in manifest['tasks'].items()})


def _make(root: str, old: Optional[dict], tasks: Sequence[str], common: dict,
          params: Dict[str, dict], overwrite: bool) -> dict:
    """Make tasks in a temporary folder and put them in place; return the new manifest."""
    scans, labels = load_scans()
    start = time.time()
    print_log(f"Making digit scenes ({', '.join(tasks)}) in {root}; takes some seconds.", 'current')
    seed = common['seed']
    pools = split_sources(labels, seed, common['val_ratio'])
    parent, prefix = osp.dirname(root), f'.{osp.basename(root)}.tmp-'
    os.makedirs(parent, exist_ok=True)
    _remove_leftovers(parent, prefix)
    temporary = tempfile.mkdtemp(prefix=prefix, dir=parent)
    try:
        # A folder inside it, because mkdtemp's own can be read by nobody else.
        new = osp.join(temporary, 'set')
        os.mkdir(new)
        images = {}
        if 'cls' in tasks:
            num = dict(zip(SPLITS, params['cls']['num']))
            images['cls'] = _write_cls(new, seed, num, params['cls'], scans, labels, pools)
        scene_tasks = [task for task in tasks if task != 'cls']
        if scene_tasks:
            scene_params = params[scene_tasks[0]]
            num = dict(zip(SPLITS, scene_params['num']))
            shown = _write_scenes(new, scene_tasks, seed, num, scene_params, scans, labels, pools)
            images.update({task: shown for task in scene_tasks})

        extend = old is not None and not overwrite
        # Read again: another process may have added other tasks meanwhile.
        present: Any = _read_manifest(root) if extend else None
        entries = dict(present['tasks']) if extend else {}
        entries.update({task: dict(parameters=params[task], images=images[task])
                        for task in tasks})
        manifest = dict(
            type='digit_scenes',
            **common,
            source='sklearn.datasets.load_digits',
            sources={split: pool.tolist() for split, pool in pools.items()},
            # In a fixed order: the file must not depend on the order in which tasks were added.
            tasks={task: entries[task] for task in TASKS if task in entries})
        _write_json(osp.join(new, MANIFEST), manifest)
        if extend:
            _extend(new, root, tasks)
        elif overwrite:
            _replace(new, root, osp.join(temporary, 'old'))
        else:
            try:
                os.rename(new, root)  # takes the place of an empty folder, and of no other
            except OSError as e:
                if e.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                # Another process was faster. Equal arguments give equal files: its set will do.
                manifest = _read_manifest(root)
                if manifest is None or _check_same(root, manifest, common, params):
                    raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    print_log(f'Made digit scenes in {time.time() - start:.1f} s.', 'current')
    return manifest
