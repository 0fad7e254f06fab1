"""Image preprocessing as transformers' CLIPImageProcessor does it, for the families whose authors use that."""

from __future__ import annotations

from PIL import Image
from torchvision.transforms import CenterCrop, Compose


def to_rgb(image):
    """A PIL image in RGB; anything else as it is."""
    return image.convert("RGB") if isinstance(image, Image.Image) else image


class FloorCenterCrop(CenterCrop):
    """The middle of an image, the left and upper one of two middles; torchvision takes the even one."""

    def forward(self, image):
        if not isinstance(image, Image.Image):
            return super().forward(image)
        height, width = self.size
        left, top = (image.width - width) // 2, (image.height - height) // 2
        return image.crop((left, top, left + width, top + height))


def as_transformers(transform: Compose) -> Compose:
    """open_clip's transform for validation, made to do what CLIPImageProcessor does.

    open_clip and OpenAI resize first and convert to RGB afterwards, so an image with a palette is resized by nearest
    neighbours and colours below full transparency bleed; transformers converts first. Transparency is dropped, as it
    was by every version of transformers until late in 5, and by those that these models were published with.

    What is no chain of steps is given back as it is: open_clip 4's NaFlex transforms, which keep an image's shape.
    """
    if not isinstance(transform, Compose):
        return transform
    steps = [FloorCenterCrop(step.size) if isinstance(step, CenterCrop) else step for step in transform.transforms]
    return Compose([to_rgb, *steps])
