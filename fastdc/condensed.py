"""CondensedDataset: a few images per class that stand in for a training set, with all that is needed to use them."""

from __future__ import annotations

import dataclasses
import io
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from fastdc.data.exchanged import SUFFIXES, exchanged_file, read_exchanged
from fastdc.data.image_data import check_labels, per_channel
from fastdc.data.labels import check_shares
from fastdc.data.sources.folder import read_classes
from fastdc.data.sources.labelled_pictures import SUFFIXES as PICTURES
from fastdc.errors import DataError, UsageError
from fastdc.options.ipc import least_to_most, one_or_each
from fastdc.recipe.formation import FORMATIONS, Scale
from fastdc.runs.content import reading
from fastdc.runs.files import load_tensors, save_tensors, write_atomically, write_error

if TYPE_CHECKING:
    from PIL.Image import Image

KIND = "condensed dataset"

_FITTED = "formation."  # what begins the names of these tensors in a file
_HALF_A_LEVEL = 0.5 / 255  # what rounding to 256 levels moves a pixel by at most
_GRID_SIDE = 64  # pixels at least that an image takes in the picture, by whole repetition of its pixels


class CondensedDataset(Dataset[tuple[Tensor, int | Tensor]]):
    """Synthetic images with their labels, sorted by class; a map-style torch Dataset of (image, label).

    Labels may be soft: `soft_labels` [N, C] are then what networks are trained on, and `labels` the class of the largest share of each.

    The images are normalised: (pixels - mean) / std per channel, for pixels in 0..1. `normalised` is False where mean is
    0 and std is 1, so that the images are plain pixels. What is `stored`, and written to files, may be smaller than the `images`: the
    formation decodes it, each stored item to one image or to several of its class.

    Args:
        images: what is stored, float [S, ...]; kept as float32. By the formation "plain" that is the images, normalised
            [N, channels, H, W].
        labels: of what is stored, int64 [S]; or soft, float [S, C], the shares of the C classes, which sum to 1.
        mean: per channel, what was subtracted.
        std: per channel, what was divided by.
        class_names: one name per class.
        formation: how what is stored becomes images, a name in `fastdc.recipe.FORMATIONS` with its options.
        fitted: what the formation took from the real images, as `Formation.fit` gives it.
        provenance: where the images come from, as plain types: configuration, seed, dataset, version, metrics.
        copy: False keeps the images given, where they are float32 and sorted; who changes them later changes the set.

    Raises:
        DataError: images, labels or statistics that do not fit together, or are not finite.
        UsageError: an unknown formation.

    Example:
        >>> condensed = CondensedDataset(torch.zeros(2, 1, 8, 8), torch.tensor([1, 0]), mean=[0.5], std=[0.25], class_names=["a", "b"])
        >>> len(condensed), condensed.labels.tolist(), condensed.to_pixels().max().item(), condensed.normalised
        (2, [0, 1], 0.5, True)
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        class_names: Sequence[str],
        formation: str = "plain",
        fitted: Mapping[str, Tensor] | None = None,
        provenance: Mapping[str, Any] | None = None,
        copy: bool = True,
    ) -> None:
        self.formation, self.fitted = FORMATIONS.in_full(formation), dict(fitted or {})
        if not isinstance(class_names, Sequence):
            raise DataError(f"class_names is {class_names!r}; expected a list of names, one per class.")
        self.mean, self.std = _numbers("mean", mean), _numbers("std", std)
        try:
            stored, labels = (torch.as_tensor(values, device="cpu") for values in (images, labels))
        except (TypeError, ValueError, RuntimeError) as error:
            raise DataError(f"images or labels cannot be read as an array ({error}); expected tensors.") from None
        stored, labels = stored.detach(), labels.detach()
        images = self._decoded(stored) if stored.dim() == 4 and stored.dtype.is_floating_point else stored
        if images.dim() != 4 or not all(images.shape[1:]) or not images.dtype.is_floating_point:
            raise DataError(f"images are {images.dtype} of shape {list(images.shape)}; expected float [N, channels, H, W].")
        shares = labels.float() if labels.dim() == 2 and labels.dtype.is_floating_point and labels.numel() else None
        if shares is not None:
            check_shares(shares, len(stored), len(class_names))
            labels = shares.argmax(1)
        check_labels(labels, len(stored), len(class_names))
        if not all(map(math.isfinite, torch.aminmax(stored))):  # torch.isfinite takes as much memory again
            raise DataError("some pixels are NaN or infinite; expected finite images.")
        if not len(self.mean) == len(self.std) == images.shape[1] or min(self.std) <= 0:
            raise DataError(
                f"mean {self.mean} and std {self.std} do not fit images of {images.shape[1]} channels; give one each, std above 0."
            )
        order = torch.argsort(labels, stable=True)
        each = len(images) // len(stored)  # images that a stored item becomes
        sorted_stored = stored[order] if copy or not torch.equal(order, torch.arange(len(order))) else stored
        self.stored = sorted_stored.float().contiguous()  # [S, ...]
        self._stored_labels = labels[order]  # [S]
        self.images = self._decoded(self.stored)  # [N, channels, H, W]
        self.labels = self._stored_labels.repeat_interleave(each)  # [N]
        self._stored_shares = None if shares is None else shares[order].contiguous()
        self.soft_labels = None if self._stored_shares is None else self._stored_shares.repeat_interleave(each, 0)  # [N, C]
        self.class_names = tuple(map(str, class_names))
        self.provenance: dict[str, Any] = dict(provenance or {})

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int | Tensor]:
        return self.images[index], int(self.labels[index]) if self.soft_labels is None else self.soft_labels[index]

    def __repr__(self) -> str:
        scale = f"normalised by mean {_rounded(self.mean)}, std {_rounded(self.std)}" if self.normalised else "pixels in 0..1"
        shape = "x".join(map(str, self.images.shape[1:]))
        held = f" in the storage of {len(self.stored)} ({self.formation})" if len(self.stored) != len(self) else ""
        each = "" if isinstance(self.ipc, int) else f", {least_to_most(self.ipc, ' to ')} of each"
        return f"CondensedDataset({len(self)} images {shape}{held} of {self.num_classes} classes{each}, {scale})"

    def _decoded(self, stored: Tensor) -> Tensor:
        """The images of what is stored [S, ...], those of an item one after another."""
        return FORMATIONS.make(self.formation, Scale(self.mean, self.std), self.fitted).decode(stored[None])[0]

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    @property
    def targets(self) -> Tensor:
        """What networks are trained on: labels int64 [N], or soft ones float32 [N, C], as torch's cross-entropy takes both."""
        return self.labels if self.soft_labels is None else self.soft_labels

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.images.shape[2], self.images.shape[3]

    @property
    def ipc(self) -> int | tuple[int, ...]:
        """What is stored per class, in the number of images that `fastdc.condense` was asked for; where classes differ, of each."""
        return one_or_each(tuple(torch.bincount(self._stored_labels, minlength=self.num_classes).tolist()))

    @property
    def storage_bytes(self) -> int:
        """Bytes of what is stored, in float32."""
        return self.stored.nbytes

    @property
    def normalised(self) -> bool:
        """Whether the images are (pixels - mean) / std with other numbers than 0 and 1."""
        return any(self.mean) or any(value != 1 for value in self.std)

    def to_pixels(self) -> Tensor:
        """The images as pixels in 0..1, clamped, float32 [N, channels, H, W]."""
        return (self.images * per_channel(self.std, self.images) + per_channel(self.mean, self.images)).clamp(0, 1)

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, provenance in its header; it appears whole or not at all.

        Raises:
            RunError: the file cannot be written.
        """
        content = {**self._said(), "formation": self.formation}
        fitted = {_FITTED + name: values for name, values in self.fitted.items()}
        labels = self._stored_labels if self._stored_shares is None else self._stored_shares
        save_tensors(Path(path).expanduser(), KIND, {"images": self.stored, "labels": labels, **fitted}, content)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        class_names: Sequence[str] | None = None,
        formation: str = "plain",
        experiment: int = 0,
    ) -> CondensedDataset:
        """Read what `save` wrote, of this version or of 0.1, or what other programs of the field write; no code in a file is run.

        Those are `.pt` files of DC, DSA, DM (as `from_pt` has it), IDC, DREAM, DANCE, NCFM ([images in 0..1, labels]), MTT, TESLA, DATM
        and DD-Ranking (images beside a file of labels, or the folder with both), an `.npz` archive with images (NHWC or NCHW) and labels,
        as of KIP, or a folder of pictures by class. Labels of two dimensions are soft: shares of the classes, or logits, whose softmax
        is taken. Images within 0..1 are pixels, others are normalised already. What was whitened (ZCA) stays so.

        Args:
            path: a file; or the folder of a run, of such a file, or of pictures.
            mean: of what another program wrote, what real images are normalised by, per channel: `load_dataset(name)[0].mean` for the
                named sets. None: of pixels, their own.
            std: likewise.
            class_names: of what another program wrote, one per class; None: their numbers, or the folders' names.
            formation: of what another program wrote, how what is stored becomes images: "tiles:factor=2" for IDC and its kin.
            experiment: which pair to take, of a file with several.

        Raises:
            MissingFileError: no such file.
            DataError: a file of another kind or version, cut short or altered.
            UsageError: mean and std are missing, or given where the file says them itself.
        """
        path = Path(path).expanduser()
        FORMATIONS.in_full(formation)
        own = own_file(path)
        if own is None:
            file = exchanged_file(path)
            if file is not None:
                return cls._imported(file, mean, std, class_names, formation, experiment)
            found = cls.from_folder(path, mean=mean, std=std, class_names=class_names)
            return found if formation == "plain" else cls(found.stored, found.labels, formation=formation, **found._said())
        if any(option is not None for option in (mean, std, class_names)) or (formation, experiment) != ("plain", 0):
            raise UsageError(f"{own} says itself how it is normalised, formed and named; give these options for files of other programs.")
        tensors, content = load_tensors(own, KIND)
        fitted = {name.removeprefix(_FITTED): values for name, values in tensors.items() if name.startswith(_FITTED)}
        with reading(own, f"a {KIND} file"):
            return cls(tensors["images"], tensors["labels"], fitted=fitted, copy=False, **content)

    def _said(self) -> dict[str, Any]:
        """What goes with the images."""
        return {"mean": self.mean, "std": self.std, "class_names": self.class_names, "provenance": self.provenance}

    def grid(self) -> Image:
        """The picture of the paper's figure 2: a row per class that has images; at one image per class, rows of ten classes.

        Images smaller than 64 pixels are enlarged by whole repetition of their pixels.
        """
        from PIL import Image
        from torchvision.utils import make_grid

        pixels, most = _as_seen(self.to_pixels()), int(torch.bincount(self.labels).max())
        if most > 1:
            classes = self.labels.unique().tolist()
            rows = pixels.new_ones(len(classes), most, *pixels.shape[1:])  # a class with fewer images ends in white
            for row, label in enumerate(classes):
                own = pixels[self.labels == label]
                rows[row, : len(own)] = own
            pixels = rows.flatten(0, 1)
        repeat = max(1, _GRID_SIDE // max(pixels.shape[2:]))
        pixels = pixels.repeat_interleave(repeat, 2).repeat_interleave(repeat, 3)
        across = most if most > 1 else min(self.num_classes, 10)
        picture = make_grid(pixels, nrow=across, padding=2, pad_value=1.0)  # [3, height, width]
        return Image.fromarray(_to_bytes(picture).permute(1, 2, 0).numpy())

    def save_grid(self, path: str | Path) -> None:
        """Write `grid()` as a PNG file, whole or not at all.

        Raises:
            UsageError: the name ends as that of another kind of file.
            RunError: the file cannot be written.
        """
        file = Path(path).expanduser()
        if _other_picture(file):
            raise UsageError(f"{file} ends in {file.suffix}; the picture is a PNG file, which keeps every pixel: let its name end in .png.")
        write_atomically(file, _png(self.grid()))

    @property
    def clipped(self) -> float:
        """The share of pixel values that lie outside 0..1, which a picture cannot show: it holds the nearest of 0 and 1."""
        pixels = self.images * per_channel(self.std, self.images) + per_channel(self.mean, self.images)
        return ((pixels < -_HALF_A_LEVEL) | (pixels > 1 + _HALF_A_LEVEL)).float().mean().item()

    def as_pictures(self) -> CondensedDataset:
        """The set that pictures of it hold: its images with their pixels cut to 0..1 and rounded to 256 levels, stored as they are.

        What `fastdc.evaluate` gives for it, beside what it gives for this set, is what pictures cost.
        """
        pixels = _to_bytes(self.to_pixels()).float() / 255
        images = (pixels - per_channel(self.mean, pixels)) / per_channel(self.std, pixels)
        return CondensedDataset(images, self.targets, **self._said())

    def to_folder(self, path: str | Path) -> None:
        """Write one PNG per image into a subfolder per class: PATH/000_CLASS/0000.png; `from_folder` reads them back.

        PNGs hold 256 levels of pixels in 0..1. Where images have others, a warning says how many; what is read back then trains networks
        to another accuracy, that of `as_pictures()`. A formation that keeps pixels in 0..1 avoids it.

        Raises:
            UsageError: images that are neither grey nor RGB; or a folder with other pictures, beside which they would be read.
            RunError: the folder cannot be written.
        """
        from PIL import Image

        if self.images.shape[1] not in (1, 3):
            raise UsageError(f"images of {self.images.shape[1]} channels are no pictures; save() writes them to a file.")
        if self.clipped:
            warnings.warn(
                f"{100 * self.clipped:.1f}% of the pixel values lie outside 0..1 and were cut off in {path}: what is read back is not what "
                "was learned, and evaluate(condensed.as_pictures(), ...) says what that costs. save() keeps all; formation "
                "'plain:clamp=true' learns images without such values.",
                stacklevel=2,
            )
        if self.soft_labels is not None:
            warnings.warn(f"{path} holds the class of each image alone: its soft label does not fit there. save() keeps it.", stacklevel=2)
        folder, files, counts = Path(path).expanduser(), [], [0] * self.num_classes
        for label in self.labels.tolist():
            files.append(folder / f"{label:03d}_{_in_path(self.class_names[label])}" / f"{counts[label]:04d}.png")
            counts[label] += 1
        if others := sorted(file for file in {*folder.glob("*/*")} - {*files} if file.name.lower().endswith(PICTURES)):
            raise UsageError(f"{folder} holds other pictures, such as {others[0].relative_to(folder)}; choose a new folder, or empty it.")
        for file, image in zip(files, _to_bytes(self.to_pixels()), strict=True):
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise write_error(file.parent, error) from None
            array = image.permute(1, 2, 0).numpy()
            write_atomically(file, _png(Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)))

    @classmethod
    def from_folder(
        cls,
        path: str | Path,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        class_names: Sequence[str] | None = None,
    ) -> CondensedDataset:
        """Read the pictures of `PATH/CLASS/*`, as `to_folder` writes them, or as anyone does.

        Args:
            path: the folder, with one subfolder per class; their names, without a number in front if all have one as `to_folder`
                writes it, are those of the classes.
            mean: what real images are normalised by, per channel: that of the set which these stand for; None: of these images.
            std: likewise.
            class_names: one per class; a subfolder is called by one of them, or by its number. None: those of the subfolders.

        Raises:
            MissingFileError: no such folder.
            DataError: a picture that cannot be read, or pictures of several sizes.
        """
        data = read_classes(Path(path).expanduser())
        names, labels = _without_numbers(data.class_names), data.labels
        if class_names is not None:
            labels, names = _numbered(data.class_names, class_names, Path(path))[labels], list(class_names)
        data = dataclasses.replace(
            data, mean=_numbers("mean", data.mean if mean is None else mean), std=_numbers("std", data.std if std is None else std)
        )
        provenance = {"imported": str(path), **({"changes": list(data.changes)} if data.changes else {})}
        return cls(data.normalised(slice(None)), labels, mean=data.mean, std=data.std, class_names=names, provenance=provenance)

    @classmethod
    def from_pt(
        cls, path: str | Path, *, mean: Sequence[float], std: Sequence[float], class_names: Sequence[str] | None = None, experiment: int = 0
    ) -> CondensedDataset:
        """Import a .pt file that the authors of the paper published or that their scripts wrote, or one of others: see `load`.

        Such a file holds {"data": [[images, labels], ...], "accs_all_exps": {...}}, one pair per experiment, normalised by
        numbers that it does not say.

        Args:
            path: the file.
            mean: what the images were normalised by, per channel; `load_dataset(name)[0].mean` for the named sets.
            std: likewise; but for CIFAR10 the authors divide by (0.2023, 0.1994, 0.2010), which is not the deviation of its pixels.
            class_names: one per class; None: their numbers.
            experiment: which pair to take.

        Raises:
            MissingFileError: no such file.
            DataError: a file of another make, or an experiment that is not in it.
        """
        return cls._imported(Path(path).expanduser(), mean, std, class_names, "plain", experiment)

    @classmethod
    def _imported(
        cls,
        path: Path,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        class_names: Sequence[str] | None,
        formation: str,
        experiment: int,
    ) -> CondensedDataset:
        """What another program wrote."""
        found = read_exchanged(path, experiment)
        images, labels = found.images, found.labels
        if class_names is None:
            count = labels.shape[1] if labels.dim() == 2 else int(labels.max()) + 1
            if labels.dim() == 1 and count > len(labels):
                raise DataError(f"{path} names {count} classes with {len(labels)} images; expected an image of every class.")
            class_names = [str(number) for number in range(count)]
        if found.in_pixels:
            mean = images.mean((0, 2, 3)).tolist() if mean is None else mean
            std = [value or 1.0 for value in images.std((0, 2, 3), correction=0).tolist()] if std is None else std
        elif mean is None or std is None:
            raise UsageError(
                f"{path} does not say how its images are normalised; give mean= and std= of the dataset that they stand for, as "
                "load_dataset(name)[0] has them."
            )
        mean, std = _numbers("mean", mean), _numbers("std", std)
        with reading(path, "a file of condensed images"):
            if found.in_pixels and len(mean) == len(std) == images.shape[1] and min(std) > 0:
                images = (images - per_channel(mean, images)) / per_channel(std, images)
            names, provenance = class_names, found.provenance
            return cls(images, labels, mean=mean, std=std, class_names=names, formation=formation, provenance=provenance)

    def to_pt(self, path: str | Path) -> None:
        """Export to the .pt format of the paper's authors, as one experiment; mean, std and provenance do not fit into it.

        Raises:
            RunError: the file cannot be written.
        """
        buffer = io.BytesIO()
        torch.save({"data": [[self.images, self.targets]], "accs_all_exps": {}}, buffer)
        write_atomically(Path(path).expanduser(), buffer.getvalue())


def _without_numbers(folders: Sequence[str]) -> list[str]:
    """The names of folders; where all have a number in front as `to_folder` writes it, what follows it.

    >>> _without_numbers(["000_cat", "1000_dog"]), _without_numbers(["101_dogs", "cats"]), _without_numbers(["01_a", "02_b"])
    (['cat', 'dog'], ['101_dogs', 'cats'], ['01_a', '02_b'])
    """
    parts = [re.fullmatch("([0-9]{3}|[1-9][0-9]{3,})_(.*)", folder) for folder in folders]
    return [part[2] for part in parts if part is not None] if all(parts) else list(folders)


def _numbered(folders: Sequence[str], class_names: Sequence[str], path: Path) -> Tensor:
    """The number of the class of each folder: by its name, by that with a number in front as `to_folder` writes it, or a number itself."""
    by_number = {str(number): number for number in range(len(class_names))}
    written = {f"{number:03d}_{_in_path(name)}": number for number, name in enumerate(class_names)}
    numbers = {**by_number, **written, **{name: number for number, name in enumerate(class_names)}}
    unknown = [name for name in folders if name not in numbers]
    if unknown:
        known = ", ".join(class_names[:10]) + (", ..." if len(class_names) > 10 else "")
        raise DataError(f"{path / unknown[0]} is called as no class is; expected {known}, or their numbers.")
    return torch.tensor([numbers[name] for name in folders])


def _in_path(name: str) -> str:
    """A name of a class as a part of the name of a folder."""
    return re.sub("[^0-9A-Za-z._-]+", "_", name)


def own_file(path: Path) -> Path | None:
    """The file of fastdc's own format that `path` is, or that the folder of its run holds; None where others wrote it."""
    if path.is_dir():
        inside = path / "condensed.safetensors"
        return inside if inside.exists() or (path / "config.json").exists() else None
    return None if path.suffix.lower() in SUFFIXES else path


def _numbers(what: str, values: Any) -> tuple[float, ...]:
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"{what} is {values!r}; expected one number for each channel.") from None
    if not all(map(math.isfinite, numbers)):
        raise DataError(f"{what} is {numbers}; expected finite numbers.")
    return numbers


def _as_seen(pixels: Tensor) -> Tensor:
    """Pixels of other than 1 or 3 channels as grey, their mean."""
    return pixels if pixels.shape[1] in (1, 3) else pixels.mean(1, keepdim=True)


def _to_bytes(pixels: Tensor) -> Tensor:
    return (pixels * 255).round().to(torch.uint8)


def _png(picture: Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def _other_picture(file: Path) -> bool:
    """Whether the name of a file says another kind of picture than PNG."""
    from PIL import Image

    return Image.registered_extensions().get(file.suffix.lower(), "PNG") != "PNG"


def _rounded(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"
