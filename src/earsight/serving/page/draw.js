// Canvases: the waveform, and the spectrogram with what speaks for an answer laid over it.

// Inferno (matplotlib, CC0; after S. van der Walt and N. Smith): as much lighter from each level to the next.
const STOPS = [
  [0, 0, 4], [5, 4, 23], [17, 10, 48], [33, 12, 74], [50, 10, 94], [69, 10, 105], [87, 16, 110], [103, 22, 110],
  [120, 28, 109], [138, 34, 106], [154, 40, 101], [171, 47, 94], [188, 55, 84], [202, 64, 74], [216, 76, 62], [228, 90, 49],
  [237, 105, 37], [245, 123, 23], [249, 142, 9], [252, 161, 8], [251, 182, 26], [249, 203, 53], [244, 223, 83],
  [242, 242, 125], [252, 255, 164],
];

// Of the largest attribution: below this share nothing is drawn, from that on the full colour.
const TRACE = 0.06;
const FULL = 0.6;
const FOR = [255, 159, 28];
const AGAINST = [63, 167, 255];

export const MAP = Array.from({ length: 256 }, (_, level) => {
  const place = (level / 255) * (STOPS.length - 1);
  const left = Math.min(Math.floor(place), STOPS.length - 2);
  return STOPS[left].map((value, i) => Math.round(value + (STOPS[left + 1][i] - value) * (place - left)));
});

export function drawWave(canvas, outline) {
  const { context, width, height } = fitted(canvas);
  context.clearRect(0, 0, width, height);
  context.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--accent");
  const peak = Math.max(1e-6, ...outline.high, ...outline.low.map((value) => -value));
  const count = outline.high.length;
  const middle = height / 2;
  const scale = (0.46 * height) / peak;
  for (let x = 0; x < width; x += 1) {
    const from = Math.floor((x * count) / width);
    const to = Math.max(from + 1, Math.floor(((x + 1) * count) / width));
    const high = Math.max(...outline.high.slice(from, to));
    const low = Math.min(...outline.low.slice(from, to));
    context.fillRect(x, middle - high * scale, 1, Math.max(1, (high - low) * scale));
  }
}

// `channel` is a number, or "all": the three as red, green and blue. `attribution` has levels from -127 to 127, or is null;
// it lies over greys with a `strength` from 0 to 1, and only where it is more than a trace.
export function drawSpectrogram(canvas, spectrogram, channel, attribution, strength = 0) {
  const { rows, columns } = spectrogram;
  const image = new ImageData(columns, rows);
  const size = rows * columns;
  const windows = spectrogram.levels.length / size;
  const level = (window, cell) => spectrogram.levels[Math.min(window, windows - 1) * size + cell];
  for (let row = 0; row < rows; row += 1) {
    for (let column = 0; column < columns; column += 1) {
      const cell = row * columns + column;
      const at = 4 * ((rows - 1 - row) * columns + column); // the lowest band is drawn at the bottom
      let color = channel === "all" ? [level(0, cell), level(1, cell), level(2, cell)] : MAP[level(Number(channel), cell)];
      if (attribution && strength > 0) {
        const grey = 0.8 * (channel === "all" ? (color[0] + color[1] + color[2]) / 3 : level(Number(channel), cell));
        const value = attribution[cell] / 127;
        const share = strength * Math.min(1, Math.max(0, Math.abs(value) - TRACE) / (FULL - TRACE));
        const over = value >= 0 ? FOR : AGAINST;
        color = over.map((part) => grey + (part - grey) * share);
      }
      image.data.set([color[0], color[1], color[2], 255], at);
    }
  }
  canvas.width = columns;
  canvas.height = rows;
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function fitted(canvas) {
  const scale = Math.min(2, window.devicePixelRatio || 1);
  const width = Math.max(1, Math.round(canvas.clientWidth * scale));
  const height = Math.max(1, Math.round(canvas.clientHeight * scale));
  canvas.width = width;
  canvas.height = height;
  return { context: canvas.getContext("2d"), width, height };
}
