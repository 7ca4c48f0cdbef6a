"""vtad-run's verdicts by plain onnxruntime, Pillow and OpenCV: python judge.py pill.onnx part.png other.png"""

import json
import sys

import cv2
import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[1])
card = json.loads(session.get_modelmeta().custom_metadata_map["vtad.card"])
size = card["input"]["width"], card["input"]["height"]
assert (card["input"]["fit"], card["input"]["roi"]) == ("stretch", None), "this example cuts and pads nothing"
for name in sys.argv[2:]:
    rgb = np.asarray(ImageOps.exif_transpose(Image.open(name)).convert("RGB"))
    smaller = min(size[0], rgb.shape[1]), min(size[1], rgb.shape[0])
    rgb = cv2.resize(cv2.resize(rgb, smaller, interpolation=cv2.INTER_AREA), size, interpolation=cv2.INTER_LINEAR)
    (score,), heatmap = session.run(["score", "heatmap"], {card["input"]["name"]: rgb.transpose(2, 0, 1)[None]})
    verdict = "NG" if score > card["calibration"]["threshold"] else "OK"
    print(name, verdict if np.isfinite(score) and np.isfinite(heatmap).all() else "ERROR", score)
