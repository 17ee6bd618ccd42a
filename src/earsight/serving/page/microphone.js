// The microphone becomes a WAV file: samples are taken as they come, for what browsers record by themselves (WebM, MP4)
// loses sound, and not every service reads it.

import { Refused } from "./api.js";
import { wav } from "./wav.js";

const PROBLEMS = {
  NotAllowedError: ["The microphone may not be used.", "Allow it in the browser's address bar, or choose a file."],
  SecurityError: ["The microphone may not be used.", "Allow it in the browser's settings, or choose a file."],
  NotFoundError: ["There is no microphone.", "Connect one, or choose a file."],
  NotReadableError: ["The microphone is used by another program.", "End that, or choose a file."],
};

// Record until `stop()`; `onLevel(level, seconds)` is called as samples come.
export async function record(onLevel) {
  if (!navigator.mediaDevices?.getUserMedia) {
    throw new Refused("This browser gives no microphone to this page.", "Open it as localhost or over https, or choose a file.");
  }
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({
      audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false },
    });
  } catch (error) {
    const known = PROBLEMS[error.name] ?? [`The microphone cannot be used (${error.name}).`, "Choose a file instead."];
    throw new Refused(...known);
  }
  const context = new AudioContext();
  try {
    await context.audioWorklet.addModule("recorder-worklet.js");
  } catch (error) {
    stream.getTracks().forEach((track) => track.stop());
    await context.close();
    throw new Refused(`The microphone cannot be listened to (${error.name}).`, "Choose a file instead.");
  }
  const source = context.createMediaStreamSource(stream);
  const taker = new AudioWorkletNode(context, "recorder", { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
  const blocks = [];
  let samples = 0;
  taker.port.onmessage = ({ data }) => {
    blocks.push(data);
    samples += data.length;
    onLevel(data.reduce((most, value) => Math.max(most, Math.abs(value)), 0), samples / context.sampleRate);
  };
  source.connect(taker);
  return {
    async stop() {
      source.disconnect();
      taker.port.onmessage = null;
      stream.getTracks().forEach((track) => track.stop());
      await context.close();
      if (!samples) throw new Refused("Nothing was recorded.", "Record for a moment longer.");
      const whole = new Float32Array(samples);
      blocks.reduce((at, block) => (whole.set(block, at), at + block.length), 0);
      return wav([whole], context.sampleRate);
    },
  };
}
