"""A data collator that lets `Trainer.predict` and `evaluate` give each example its own adapter."""

from __future__ import annotations

from collections.abc import Mapping as AnyMapping
from dataclasses import dataclass
from typing import Any, Callable, Dict, Mapping, Sequence

from shim.errors import AdapterNamesError


@dataclass(frozen=True)
class DataCollatorWithAdapterNames:
    """Collates by `collator`, and hands the model the `column` of the examples as `adapter_names`.

        args = TrainingArguments(..., remove_unused_columns=False)
        trainer = Trainer(model, args, data_collator=DataCollatorWithAdapterNames(DataCollatorWithPadding(tokenizer)))
        trainer.predict([{"input_ids": [5, 7], "adapter_names": "fr"}, ...])

    collator: takes the examples without the column, and returns a mapping of tensors.
    column: holds the name of one adapter, or `__base__`, in every example.
    """

    collator: Callable[[Any], Mapping[str, Any]]
    column: str = "adapter_names"

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> Dict[str, Any]:
        """Return one batch, with a list of names.

        Raises:
            AdapterNamesError: an example has no such column.
        """
        for index, feature in enumerate(features):
            if not isinstance(feature, AnyMapping) or self.column not in feature:
                raise AdapterNamesError(
                    f"example {index} of the batch has no column {self.column!r}, but should name its adapter there. "
                    "Trainer drops what the model's forward does not name: set "
                    "TrainingArguments(remove_unused_columns=False)"
                )
        names = [feature[self.column] for feature in features]
        rest = [{key: value for key, value in feature.items() if key != self.column} for feature in features]
        # A plain dictionary: BatchEncoding.to moves every value, on transformers below 4.49. The names come last,
        # since accelerate counts a batch by its first value.
        return {**self.collator(rest), "adapter_names": names}
