"""Typed errors. Everything a caller can do wrong ends in one of these, with a text that says what to do."""


class IcmformerError(Exception):
    """Base of all errors raised on purpose by this package."""


class ConfigError(IcmformerError, ValueError):
    """A network configuration, setting or option that cannot work."""


class InputSizeError(IcmformerError, ValueError):
    """An input size that the network's patches and windows do not allow."""


class PromptError(IcmformerError, ValueError):
    """Clicks, a box or a previous mask that do not fit the image or each other."""


class ImageError(IcmformerError, ValueError):
    """Bytes that are not an image this package opens, or an array that is not an RGB image."""


class TruncatedImageError(ImageError):
    """An image file that ends early or whose data stream is broken."""


class ImageTooLargeError(ImageError):
    """An image with more pixels than the limit allows; found from the header, before any decoding."""


class WeightsError(IcmformerError, ValueError):
    """A weights file that is missing, damaged, unsafe or does not fit its configuration."""


class DeviceError(IcmformerError, RuntimeError):
    """A device that this machine or this build of torch does not offer."""


class DeviceMemoryError(DeviceError):
    """A device with no memory left for a network or for a pass of it."""


class DiskFullError(IcmformerError, OSError):
    """No room left where a file is written: a full disk, a used-up quota, or a limit on the size of files."""


class TrainingError(IcmformerError, RuntimeError):
    """A training run that cannot go on."""


class UnreadableImageError(ImageError):
    """An image to train or measure on, or its masks, that cannot be read.

    Attributes:
        image: Which one.
        why: What is wrong with it.
    """

    def __init__(self, image: str, why: str) -> None:
        super().__init__(image, why)  # both, so that it comes whole out of another process
        self.image, self.why = image, why

    def __str__(self) -> str:
        return f"{self.image}: {self.why}"
