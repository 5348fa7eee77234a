"""Images and videos: whole ones, ones cut into patches and packed, and what says how large each is."""

from __future__ import annotations

from typing import Any, List, Tuple

from conformance.models.every.feed import Feed

PIXELS = ("pixel_values", "image", "image_pixel_values")
GRIDS = ("image_grid_thw", "grid_thw", "image_grid_hw")


def draw(feed: Feed) -> None:
    """Draw the arguments that hold images, where the model sees."""
    name = next((name for name in PIXELS if feed.wants(name) and _sees(feed, name)), None)
    grid = next((name for name in GRIDS if feed.wants(name)), None)
    if name and grid:
        _packed_patches(feed, name, grid)
    elif grid and feed.wants("hidden_states"):
        _packed_patches(feed, "hidden_states", grid)
    elif name and feed.wants("spatial_shapes"):
        _patch_lists(feed, name)
    elif name:
        _whole_images(feed, name)
    if feed.requires("pixel_values_videos"):
        feed.put("pixel_values_videos", _videos(feed))
    if feed.requires("pixel_mask"):
        feed.put("pixel_mask", feed.whole(1, 2, feed.samples, *image_size(feed)))


def image_size(feed: Feed) -> Tuple[int, int]:
    """Return height and width of the model's images."""
    given = feed.facts.get("image")
    vision = feed.part("vision", "image", "backbone")
    size = given or feed.setting("image_size", "img_size", "input_size", "max_img_size", "crop_size", within=vision)
    size = size or feed.setting("image_size", "img_size", default=64)
    height, width = feed.pair(size)
    return height * feed.scale, width * feed.scale


def channels(feed: Feed) -> int:
    """Return how many channels an image has."""
    vision = feed.part("vision", "image")
    value = feed.setting("num_channels", "in_channels", "in_chans", "input_channels", default=3, within=vision)
    return int(value) if isinstance(value, int) else 3


def textured(feed: Feed, height: int, width: int, *leading: int) -> Any:
    """Return images of a colour, coarse tiles and noise: pure noise averages out before a pooled output."""
    import torch

    count = (*leading, channels(feed))
    pixels = feed.noise(*count, 1, 1) + feed.noise(*count, height, width)
    if height % 8 == 0 and width % 8 == 0:
        tiles = feed.noise(*count, height // 8, width // 8)
        pixels = pixels + tiles.repeat_interleave(8, dim=-2).repeat_interleave(8, dim=-1)
    return pixels.to(torch.float32)


def patch_side(feed: Feed) -> int:
    """Return the side of a patch in pixels."""
    vision = feed.part("vision", "image")
    return feed.pair(feed.setting("patch_size", "spatial_patch_size", default=8, within=vision))[0]


def _sees(feed: Feed, name: str) -> bool:
    """Whether pixels are drawn: required, the main input, or fed beside text to a part that sees."""
    main = getattr(feed.model, "main_input_name", "")
    seeing = feed.part("vision", "image", "vit", "backbone", "vq") is not None
    if "vision_config" in vars(feed.config) and feed.config.vision_config is None:
        return False
    return feed.parameters[name] or main == name or seeing or name in feed.facts.get("also", ())


def _whole_images(feed: Feed, name: str) -> None:
    height, width = image_size(feed)
    frames = feed.facts.get("frames") or feed.setting("num_frames")
    tiled = feed.setting("image_grid_pinpoints") is not None
    if tiled:
        frames = 3  # two tiles and the whole
    elif "images_each" in feed.facts:
        frames = feed.facts["images_each"]
    leading = (feed.samples,) if frames is None else (feed.samples, int(frames))
    if "tiles" in feed.facts:
        leading = (*leading, feed.facts["tiles"])
    feed.put(name, textured(feed, height, width, *leading))
    if feed.requires("image_sizes") or (tiled and feed.wants("image_sizes")):
        import torch

        sizes = [(height, width)] * feed.samples
        if tiled:
            sizes = [(height, 2 * width) if sample % 2 else (2 * height, width) for sample in range(feed.samples)]
        feed.put("image_sizes", torch.tensor(sizes))


def _videos(feed: Feed) -> Any:
    frames = feed.facts.get("frames") or feed.setting("num_frames", "frames_per_clip", default=4)
    height, width = image_size(feed)
    return textured(feed, height, width, feed.samples, int(frames))


def _packed_patches(feed: Feed, name: str, grid: str) -> None:
    """Draw images cut into patches, all in one list, and the (time, height, width) of each in `grid`."""
    import torch

    vision = feed.part("vision") or feed.config
    side = patch_side(feed)
    depth = feed.setting("temporal_patch_size", "patch_temporal", default=1, within=vision)
    merge = feed.setting("spatial_merge_size", "merge_size", default=2, within=vision)
    merge = feed.pair(merge)[0]
    row = channels(feed) * (depth if isinstance(depth, int) else depth[0]) * side * side
    sizes: List[List[Tuple[int, ...]]] = []
    for sample in range(feed.samples):
        count = 1 + (sample % 2 if feed.uneven else 0)
        wide = 2 + (sample % 2 if feed.uneven else 0)
        sizes.append([(1, 2 * merge * feed.scale, wide * merge * feed.scale)] * count)
    feed.images = [[t * h * w for t, h, w in images] for images in sizes]
    rows = list(map(sum, feed.images))
    parts = [_patches(feed, count, row) for count in rows]
    if feed.facts.get("square"):
        parts = [part.reshape(len(part), -1, side, side) for part in parts]
    feed.batch.add(name, parts)
    shown = slice(1, None) if grid.endswith("_hw") else slice(None)
    feed.batch.add(grid, [torch.tensor([image[shown] for image in images]) for images in sizes])


def _patches(feed: Feed, count: int, row: int) -> Any:
    """Return noise about a value of the image's own."""
    return feed.noise(1, row) + feed.noise(count, row)


def _patch_lists(feed: Feed, name: str) -> None:
    """Draw images as padded lists of patches, with masks and the (height, width) of each in patches."""
    import torch

    side = patch_side(feed)
    tall = 4
    feed.put(name, feed.noise(feed.samples, tall * tall, channels(feed) * side * side))
    feed.put("spatial_shapes", torch.tensor([[tall, tall]] * feed.samples))
    if feed.wants("pixel_attention_mask"):
        feed.put("pixel_attention_mask", torch.ones(feed.samples, tall * tall, dtype=torch.long))
