// WAV files of 16 bits from samples, and from sound files that this browser decodes where the service cannot.

const RATE = 48000;

// `channels` are Float32Arrays of one length.
export function wav(channels, rate) {
  const frames = channels[0].length;
  const size = 2 * frames * channels.length;
  const view = new DataView(new ArrayBuffer(44 + size));
  const text = (at, word) => [...word].forEach((sign, i) => view.setUint8(at + i, sign.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + size, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, channels.length, true);
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * channels.length * rate, true);
  view.setUint16(32, 2 * channels.length, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, size, true);
  let at = 44;
  for (let frame = 0; frame < frames; frame += 1) {
    for (const samples of channels) {
      view.setInt16(at, Math.round(Math.max(-1, Math.min(1, samples[frame])) * 32767), true);
      at += 2;
    }
  }
  return new Blob([view], { type: "audio/wav" });
}

// A sound file as WAV, by the browser's own decoders; null where it has none for it.
export async function decoded(blob) {
  const context = new OfflineAudioContext(1, 1, RATE);
  try {
    const sound = await context.decodeAudioData(await blob.arrayBuffer());
    return wav(Array.from({ length: sound.numberOfChannels }, (_, channel) => sound.getChannelData(channel)), sound.sampleRate);
  } catch {
    return null;
  }
}
