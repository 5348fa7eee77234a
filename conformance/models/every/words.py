"""Text: ids and masks, with a placeholder for every feature of an image or a sound that stands in the text."""

from __future__ import annotations

from typing import Any, Dict, List, Optional

from conformance.models.every.feed import Feed

PLACES = {
    "image": ("get_image_features", ("image_token_id", "image_token_index")),
    "audio": ("get_audio_features", ("audio_token_id", "audio_token_index")),
}
"""For each kind of feature the method that computes it and the fields that name its placeholder."""


def draw(feed: Feed) -> None:
    """Draw ids and masks, and the decoder's ids where the model has a decoder."""
    import torch

    if feed.wants("input_ids") and _reads(feed):
        rows = [_row(feed, sample) for sample in range(feed.samples)]
        longest = max(map(len, rows))
        ids = torch.full((feed.samples, longest), _padding(feed))
        mask = torch.zeros(feed.samples, longest, dtype=torch.long)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = torch.tensor(row)
            mask[index, : len(row)] = 1
        feed.put("input_ids", ids)
        if feed.wants("attention_mask"):
            feed.put("attention_mask", mask)
    _kinds_of_token(feed)
    if feed.wants("decoder_input_ids") and _decodes(feed):
        words = feed.whole(*feed.words, feed.samples, feed.facts.get("decoded", 5))
        feed.put("decoder_input_ids", words)


def features(feed: Feed, kind: str) -> Optional[List[int]]:
    """Return how many features of a kind each sample has, as the model itself computes them; None for none."""
    import inspect

    import torch

    method = feed.method(PLACES[kind][0])
    if method is None:
        return None
    known = inspect.signature(method).parameters
    counts = []
    for sample in range(feed.samples):
        arguments = {k: v for k, v in feed.batch.of([sample]).arguments.items() if k in known and k != "input_ids"}
        if not arguments:
            return None
        with torch.no_grad():
            counts.append(_count(method(**arguments)))
    return counts


def _count(output: Any) -> int:
    """Return the number of feature vectors in what a `get_…_features` gave."""
    import torch

    if hasattr(output, "pooler_output") and output.pooler_output is not None:
        output = output.pooler_output
    elif hasattr(output, "last_hidden_state"):
        output = output.last_hidden_state
    if isinstance(output, torch.Tensor):
        return output.numel() // output.shape[-1]
    parts = output if isinstance(output, (list, tuple)) else ()
    return sum(_count(item) for item in parts if isinstance(item, (torch.Tensor, list, tuple)))


def _row(feed: Feed, sample: int) -> List[int]:
    """Return one sample's tokens: words, the placeholders of its images and sounds, words."""
    before = max(1, feed.length // 2)
    row = _text(feed, before)
    for kind, (_, names) in PLACES.items():
        counts = _counts(feed, kind)
        token = feed.setting(*names)
        if counts is None or token is None:
            continue
        opening, closing = _around(feed, kind)
        for count in _each(feed, kind, sample, counts[sample]):
            row += [*opening, *[int(token)] * count, *closing]
            row += _text(feed, 1)  # one image is told from the next by the words between them
    fewer = sample % 3 if feed.facts.get("padded", True) else 0
    return row + _text(feed, feed.length - before - fewer)


def _each(feed: Feed, kind: str, sample: int, count: int) -> List[int]:
    """Return how many of a sample's features belong to each of its images: as many as their patches."""
    if kind != "image" or not feed.images:
        return [count]
    patches = feed.images[sample]
    return [count * part // sum(patches) for part in patches]


def _counts(feed: Feed, kind: str) -> Optional[List[int]]:
    cached: Dict[str, Optional[List[int]]] = feed.__dict__.setdefault("_counted", {})
    if kind not in cached:
        if kind in feed.facts.get("places", {}):
            cached[kind] = [int(feed.facts["places"][kind])] * feed.samples
        else:
            cached[kind] = features(feed, kind)
    return cached[kind]


def _around(feed: Feed, kind: str) -> Any:
    """Return the tokens that open and close an image or a sound, where the model looks for them."""
    sense = {"image": "vision", "audio": "audio"}[kind]
    tokens = (feed.setting(f"{sense}_{end}_token_id") for end in ("start", "end"))
    return tuple([int(token)] if isinstance(token, int) else [] for token in tokens)


def _text(feed: Feed, length: int) -> List[int]:
    return [int(word) for word in feed.whole(*feed.words, max(1, length))]


def _padding(feed: Feed) -> int:
    value = feed.setting("pad_token_id", default=0)
    return value if isinstance(value, int) and value >= 0 else 0


def _reads(feed: Feed) -> bool:
    main = getattr(feed.model, "main_input_name", "input_ids")
    required = feed.parameters["input_ids"] or main == "input_ids"
    nothing_yet = not feed.batch.tensors
    return required or nothing_yet or feed.part("text") is not None or "input_ids" in feed.facts.get("also", ())


def _decodes(feed: Feed) -> bool:
    two = getattr(feed.config, "is_encoder_decoder", False)
    return two or feed.parameters["decoder_input_ids"] or "decoder_input_ids" in feed.facts.get("also", ())


def _kinds_of_token(feed: Feed) -> None:
    """Draw which tokens are placeholders, where the model asks for it."""
    import torch

    if "input_ids" not in feed.batch.tensors:
        return
    for name in ("mm_token_type_ids", "moe_mm_token_type_ids"):
        if feed.wants(name):
            ids = feed.batch.tensors["input_ids"]
            kinds = torch.zeros_like(ids)
            for number, kind in enumerate(("image", "video", "audio"), 1):
                token = feed.setting(f"{kind}_token_id", f"{kind}_token_index")
                if isinstance(token, int):
                    kinds[ids == token] = number
            feed.put(name, kinds)
