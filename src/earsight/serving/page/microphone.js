// The microphone becomes a WAV file: samples are taken as they come, for what browsers record by themselves (WebM, MP4)
// is not what the service reads.

import { Refused } from "./api.js";

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
      return wav(blocks, samples, context.sampleRate);
    },
  };
}

function wav(blocks, samples, rate) {
  const view = new DataView(new ArrayBuffer(44 + 2 * samples));
  const text = (at, word) => [...word].forEach((sign, i) => view.setUint8(at + i, sign.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + 2 * samples, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, 2 * samples, true);
  let at = 44;
  for (const block of blocks) {
    for (const value of block) {
      view.setInt16(at, Math.max(-1, Math.min(1, value)) * 32767, true);
      at += 2;
    }
  }
  return new Blob([view], { type: "audio/wav" });
}
