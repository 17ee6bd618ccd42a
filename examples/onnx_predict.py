"""Names sounds with an exported model: python onnx_predict.py MODEL.onnx SOUND...  Needs onnxruntime and soundfile."""

import json
import sys

import numpy as np
import onnxruntime
import soundfile

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
about = {key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}

for path in sys.argv[2:]:
    wave, rate = soundfile.read(path, dtype="float32", always_2d=True)
    if rate != about["sample_rate_hz"]:
        sys.exit(f"{path}: is at {rate} Hz and the model takes {about['sample_rate_hz']} Hz: resample it first")
    waves = np.ascontiguousarray(wave.mean(axis=1)[None])  # mono; any length, the model cuts or pads it
    found = dict(zip([one.name for one in session.get_outputs()], session.run(None, {"waves": waves}), strict=True))
    best = int(found["probabilities"][0].argmax())
    unknown = "novelty" in found and found["novelty"][0] > about["unknown_above"]
    label = f"unknown (nearest: {about['classes'][best]})" if unknown else about["classes"][best]
    print(f"{path}\t{label} {100 * found['probabilities'][0, best]:.1f} %")
