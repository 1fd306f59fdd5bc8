"""Geometry of image batches: pure functions, differentiable in the images, each with parameters per image.

`images` are (N, C, H, W). Parameters lie on the images' device; nothing here draws or knows of callbacks.
"""

from __future__ import annotations

from torch import Tensor, arange, searchsorted, where
from torch.nn import functional as F


def window(images: Tensor, top: Tensor, left: Tensor, size: tuple[int, int], fill: Tensor | float = 0.0) -> Tensor:
    """The window of `size` (h, w) whose upper left pixel is (`top`, `left`), int64 (N,), in each image: (N, C, h, w).

    Where the window reaches beyond the image it holds `fill`: a number, or one for each channel (C,).
    """
    height, width = images.shape[-2:]
    rows = top[:, None] + arange(size[0], device=images.device)
    columns = left[:, None] + arange(size[1], device=images.device)
    within = _outer((rows >= 0) & (rows < height), (columns >= 0) & (columns < width))
    taken = _take(images, rows.clamp(0, height - 1), columns.clamp(0, width - 1))
    return where(within, taken, fill.view(1, -1, 1, 1) if isinstance(fill, Tensor) else fill)


def erase(images: Tensor, box: Tensor) -> Tensor:
    """Zero in the rows top <= i < bottom and columns left <= j < right; `box` (N, 4) = top, left, bottom, right."""
    top, left, bottom, right = box[:, :, None].unbind(1)
    rows, columns = (arange(size, device=images.device) for size in images.shape[-2:])
    erased = _outer((rows >= top) & (rows < bottom), (columns >= left) & (columns < right))
    return images.masked_fill(erased, 0.0)


def affine(images: Tensor, theta: Tensor) -> Tensor:
    """Bilinear samples at theta @ (x, y, 1), `theta` (N, 2, 3), zeros outside.

    Coordinates run from -1 to 1 between the *centres* of the outermost pixels (align_corners=True), x to the right,
    y downwards.
    """
    grid = F.affine_grid(theta, list(images.shape), align_corners=True)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=True)


def resized_crop(images: Tensor, box: Tensor, size: tuple[int, int], antialias: bool = True) -> Tensor:
    """The boxes (N, 4) = top, left, height, width, int64, each resized bilinearly to `size` (h, w): (N, C, h, w).

    Agrees with torchvision's `resized_crop`: pixels outside the box have no influence, and with `antialias` the filter
    widens where the box is larger than `size`. Bilinear resizing is separable: A @ image @ B^T, one A and B an image.
    """
    top, left, height, width = box.to(images.dtype).unbind(1)
    down = _resizing(top, height, images.shape[-2], size[0], antialias)
    across = _resizing(left, width, images.shape[-1], size[1], antialias)
    return down[:, None] @ images @ across[:, None].transpose(2, 3)


def shuffle_patches(images: Tensor, columns: Tensor, rows: Tensor) -> Tensor:
    """The width cut into F strips which are reordered, then the height; `columns`, `rows` (N, F) rank the strips.

    Strip k goes to place ranks[k]. Where F does not divide a side, its first strips are one pixel larger.
    """
    height, width = images.shape[-2:]
    return _take(images, _strips(rows, height), _strips(columns, width))


def _take(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """out[n, c, i, j] = images[n, c, rows[n, i], columns[n, j]] for `rows` (N, h) and `columns` (N, w)."""
    n, channels, _, width = images.shape
    flat = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)
    taken = images.flatten(2).gather(2, flat[:, None].expand(-1, channels, -1))
    return taken.view(n, channels, rows.shape[1], columns.shape[1])


def _outer(rows: Tensor, columns: Tensor) -> Tensor:
    """Masks (N, 1, h, w) from masks of rows (N, h) and of columns (N, w)."""
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def _resizing(start: Tensor, length: Tensor, side: int, size: int, antialias: bool) -> Tensor:
    """(N, size, side): the weight of each pixel of a side in each resized pixel, a triangle around its centre."""
    step = (length / size)[:, None, None]
    centre = start[:, None, None] + step * (arange(size, device=start.device)[:, None] + 0.5)
    pixel = arange(side, device=start.device) + 0.5
    inside = (pixel > start[:, None, None]) & (pixel < (start + length)[:, None, None])
    weight = (1 - (pixel - centre).abs() / (step.clamp(min=1) if antialias else 1)).clamp(min=0) * inside
    return weight / weight.sum(2, keepdim=True)


def _strips(ranks: Tensor, side: int) -> Tensor:
    """(N, side): the pixels of a side in their new order, for strips of ranks (N, F)."""
    count = ranks.shape[1]
    number = arange(count, device=ranks.device)
    starts = number * (side // count) + number.clamp(max=side % count)
    strip = searchsorted(starts, arange(side, device=ranks.device), right=True) - 1
    return ranks[:, strip].argsort(dim=1, stable=True)
