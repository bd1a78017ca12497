"""All that a file of torch holds, through the package's own reader of tensors."""

from torch import Tensor

from icmformer.weights.unpickle import TorchFile


def read_all(path):
    """The content with the numbers of its tensors."""
    file = TorchFile(path)

    def numbers(value):
        if isinstance(value, Tensor):
            return file.read(value)
        if isinstance(value, dict):
            return {key: numbers(inner) for key, inner in value.items()}
        return type(value)(map(numbers, value)) if type(value) in (list, tuple) else value

    return numbers(file.content)
