"""Edit a photo with a model that `igan-fast export --model RUN --out FOLDER` has exported; without PyTorch.

pip install numpy pillow onnxruntime
python examples/onnx_edit.py FOLDER photo.jpg edited.png Smiling=1 Male=0
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

if len(sys.argv) < 4:
    sys.exit(__doc__)
folder, photo, out, *changes = sys.argv[1:]
model = json.loads(Path(folder, "model.json").read_text())
recogniser = onnxruntime.InferenceSession(str(Path(folder, "recogniser.onnx")))
generator = onnxruntime.InferenceSession(str(Path(folder, "generator.onnx")))

# The centre square, as in training. A face must be where the training photos have it.
image = ImageOps.exif_transpose(Image.open(photo)).convert("RGB")
size = (model["image_size"],) * 2
pixels = np.asarray(ImageOps.fit(image, size, Image.Resampling.BICUBIC))
probabilities, latent = recogniser.run(["probabilities", "latent"], {"photos": pixels[None]})
recognised = dict(zip(model["attributes"], probabilities[0].tolist(), strict=True))
for name, probability in sorted(recognised.items(), key=lambda item: -item[1]):
    print(f"{probability:4.0%}  {name}")

wanted = {name: float(value) for name, value in (change.split("=") for change in changes)}
edited = recognised | {name: 0.5 + model["strength"] * (value - 0.5) for name, value in wanted.items()}
for name, value in wanted.items():  # what usually goes along, such as a beard with Male
    for other, move in model["moves"].get(name, {}).items():
        if other not in wanted:
            edited[other] = min(max(edited[other] + move * (value - recognised[name]), 0), 1)
numbers = np.array([[edited[name] for name in model["attributes"]]], np.float32)
(pictures,) = generator.run(["pictures"], {"latent": latent, "attributes": numbers})
Image.fromarray(pictures[0]).save(out)
