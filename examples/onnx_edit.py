"""Edit a photo with a model that was exported to ONNX; without PyTorch.

pip install numpy pillow onnxruntime
igan-fast export --model RUN --out FOLDER
python examples/onnx_edit.py FOLDER photo.jpg edited.png Smiling=1 Male=0
"""

import json
import sys
from pathlib import Path

import numpy as np
from onnxruntime import InferenceSession
from PIL import Image, ImageOps

if len(sys.argv) < 4:
    sys.exit(__doc__)
folder, photo, out = map(Path, sys.argv[1:4])
changes = [change.split("=") for change in sys.argv[4:]]
model = json.loads((folder / "model.json").read_text())
recogniser = InferenceSession(folder / "recogniser.onnx")
generator = InferenceSession(folder / "generator.onnx")

# The centre square. The face must be where the training photos have it.
image = ImageOps.exif_transpose(Image.open(photo)).convert("RGB")
size = (model["image_size"], model["image_size"])
pixels = np.asarray(ImageOps.fit(image, size, Image.Resampling.BICUBIC))
probabilities, latent = recogniser.run(None, {"photos": pixels[None]})
recognised = dict(zip(model["attributes"], probabilities[0], strict=True))
for name in sorted(recognised, key=recognised.__getitem__, reverse=True):
    print(f"{recognised[name]:4.0%}  {name}")

wanted = {name: float(value) for name, value in changes}
edited = dict(recognised)
for name, value in wanted.items():
    for other, move in model["moves"].get(name, {}).items():  # goes along
        moved = edited[other] + move * (value - recognised[name])
        edited[other] = min(max(moved, 0), 1)
for name, value in wanted.items():
    edited[name] = 0.5 + model["strength"] * (value - 0.5)
numbers = np.array([[edited[name] for name in model["attributes"]]], np.float32)
inputs = {"latent": latent, "attributes": numbers}
(pictures,) = generator.run(["pictures"], inputs)
Image.fromarray(pictures[0]).save(out)
